"""LoRACLR for the Stable Diffusion WebUI: several LoRAs merged into one that keeps each of them."""

from lib_loraclr.version import __version__

__all__ = ["__version__"]

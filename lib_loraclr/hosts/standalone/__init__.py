"""The host without a WebUI: one checkpoint file, loaded offline by diffusers and transformers."""

from __future__ import annotations

from lib_loraclr.hosts.standalone.host import StandaloneHost
from lib_loraclr.hosts.standalone.load import load_checkpoint

__all__ = ["StandaloneHost", "load_checkpoint"]

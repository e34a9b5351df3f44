"""The host without a WebUI: one checkpoint file, loaded offline by diffusers and transformers."""

from __future__ import annotations

from lib_loraclr.hosts.standalone.host import StandaloneHost
from lib_loraclr.hosts.standalone.load import load_checkpoint
from lib_loraclr.hosts.standalone.lora import applied

__all__ = ["StandaloneHost", "applied", "load_checkpoint"]

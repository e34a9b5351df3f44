"""Capture: what the layers of a running model are given, as second moments per concept."""

from __future__ import annotations

from lib_loraclr.capture.cache import TensorCache
from lib_loraclr.capture.concept import Concept
from lib_loraclr.capture.hooks import inject
from lib_loraclr.capture.run import PassLimits, capture, combine
from lib_loraclr.capture.settings import CaptureSettings

__all__ = ["CaptureSettings", "Concept", "PassLimits", "TensorCache", "capture", "combine", "inject"]

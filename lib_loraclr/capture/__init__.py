"""Capture: what the layers of a running model are given, as second moments per concept."""

from __future__ import annotations

from lib_loraclr.capture.cache import StatisticsCache
from lib_loraclr.capture.hooks import inject
from lib_loraclr.capture.passes import PassLimits
from lib_loraclr.capture.run import CaptureConcept, capture, combine
from lib_loraclr.capture.settings import CaptureSettings

__all__ = ["CaptureConcept", "CaptureSettings", "PassLimits", "StatisticsCache", "capture", "combine", "inject"]

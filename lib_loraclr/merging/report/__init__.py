"""The report of a merge: one JSON file for programs and one self-contained HTML page for people."""

from __future__ import annotations

from lib_loraclr.merging.report.data import MergeReport, MethodVariant
from lib_loraclr.merging.report.view import render_html

__all__ = ["MergeReport", "MethodVariant", "render_html"]

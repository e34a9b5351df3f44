"""The one place that states the version; the tab, the API and the file metadata read it from here."""

__version__ = "0.2.0"

"""The WebUI runs this at every start. The extension needs only what the host already has, so nothing is installed."""

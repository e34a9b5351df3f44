"""The faces inside a WebUI: gradio components over `jobs`, one folder per script or tab."""

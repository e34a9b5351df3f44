# gradio 3.41 and 4.40 differ in types and are in no environment that is checked here: its names are of any type.
from typing import Any

def __getattr__(name: str) -> Any: ...

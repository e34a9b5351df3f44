from typing import Any

class InputAccordion:
    def __init__(self, value: bool | None = ..., **kwargs: Any) -> None: ...

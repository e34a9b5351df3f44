from typing import Any

class PasteField(tuple[Any, ...]):
    def __new__(cls, component: Any, target: Any, *, api: str | None = None) -> PasteField: ...

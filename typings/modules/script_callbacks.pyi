from collections.abc import Callable
from typing import Any

callback_map: dict[str, list[Any]]

def add_callback(
    callbacks: list[Any],
    fun: Callable[..., Any],
    *,
    name: str | None = ...,
    category: str = ...,
    filename: str | None = ...,
) -> None: ...

from typing import Any

cmd_opts: Any
opts: Any
state: Any
sd_model: Any
device: Any

class OptionInfo:
    section: tuple[str, str]
    def __init__(
        self,
        default: Any = ...,
        label: str = ...,
        component: Any = ...,
        component_args: Any = ...,
        *,
        restrict_api: bool = ...,
    ) -> None: ...
    def info(self, info: str) -> OptionInfo: ...

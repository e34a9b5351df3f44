from typing import Any

scripts_data: list[Any]

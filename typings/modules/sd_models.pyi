from typing import Any

model_data: Any

def forge_model_reload() -> object: ...  # Forge's only
def send_model_to_cpu(m: Any) -> None: ...
def send_model_to_device(m: Any) -> None: ...

from contextlib import AbstractContextManager

import torch

cpu: torch.device
device: torch.device
dtype_unet: torch.dtype
unet_needs_upcast: bool

def autocast(disable: bool = ...) -> AbstractContextManager[object]: ...
def without_autocast(disable: bool = ...) -> AbstractContextManager[object]: ...
def torch_gc() -> None: ...

"""The picture size that a checkpoint was made for: its .yaml file's, where there is one, else its family's."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

LATENT_FACTOR = 8


def native_size(checkpoint: Path, family: str, v_prediction: bool) -> int:
    """Pixels of a side, as the standalone host says for the same file. Cheap: the .yaml is read when it has changed."""
    path = checkpoint.with_suffix(".yaml")
    try:
        configured = _configured(path, path.stat().st_mtime_ns)
    except OSError:
        configured = None
    if configured is not None:
        return configured * LATENT_FACTOR
    return {"sd1": 512, "sd2": 768 if v_prediction else 512}.get(family, 1024)


@lru_cache(maxsize=16)
def _configured(path: Path, changed: int) -> int | None:
    """`model.params.image_size` (in latent pixels); None where the file does not say or is no configuration."""
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        size = content["model"]["params"]["image_size"]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None

"""How much one pass of a capture may take on: less each time the memory was not enough for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib_loraclr.capture.settings import CaptureSettings


@dataclass
class PassLimits:
    """Layers that are watched and pictures that run side by side in one pass; None: as many as there are.

    One object for all captures of a merge, so that a later round does not run into the same wall.
    """

    layers: int | None = None
    pictures: int | None = None

    @property
    def lowered(self) -> bool:
        """Whether the memory was not enough at least once."""
        return self.layers is not None

    def lower(self, layers: int, pictures: int) -> bool:
        """Halve what was too much; False when one layer and one picture were."""
        if layers <= 1 and pictures <= 1:
            return False
        self.layers = max(1, layers // 2)
        if pictures > 1:
            self.pictures = pictures // 2
        return True

    def of(self, settings: CaptureSettings) -> CaptureSettings:
        """The settings with no more pictures side by side than fit; features do not depend on it."""
        return settings if self.pictures is None else replace(settings, batch=min(settings.batch, self.pictures))

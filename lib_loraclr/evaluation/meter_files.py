"""Meters from the files a user has: a small network, and held-out identities for the threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.folder import read_pictures
from lib_loraclr.evaluation.meters import Calibration, Meters, calibrate
from lib_loraclr.evaluation.network import HeadEmbedder, LabelJudge, PictureNetwork, TrunkEmbedder
from lib_loraclr.evaluation.options import pictures_in


def network_meters(network: PictureNetwork, centre: TrunkEmbedder | None = None) -> Meters:
    """The heads `identity` and `style`, the first head with labels, and the trunk around its centre."""
    labelled = [name for name, head in network.heads.items() if head.labels]
    return Meters(
        identity=HeadEmbedder(network, "identity") if "identity" in network.heads else None,
        style=HeadEmbedder(network, "style") if "style" in network.heads else None,
        text=LabelJudge(network, labelled[0]) if labelled else None,
        image=centre,
    )


def calibrated(meters: Meters, folder: Path) -> tuple[Meters, Calibration]:
    """With the threshold that tells the identities of `folder` apart: one sub-folder each, half of it references.

    Raises InputError for fewer than two identities with two pictures or more.
    """
    if meters.identity is None:
        raise InputError("bad-option", "There is no identity embedder whose threshold could be fixed.", key="held_out")
    people = [pictures_in(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    people = [paths for paths in people if len(paths) > 1]
    if len(people) < 2:
        message = "The held-out identities need at least two sub-folders with two pictures or more."
        raise InputError("bad-option", message, file=str(folder), key="held_out")
    vectors = [meters.identity.vectors(read_pictures(paths)) for paths in people]
    halves = [(len(own) + 1) // 2 for own in vectors]
    found = calibrate(
        [own[:half] for own, half in zip(vectors, halves, strict=True)],
        [own[half:] for own, half in zip(vectors, halves, strict=True)],
    )
    return replace(meters, thresholds={**meters.thresholds, meters.identity.name: found.threshold}), found

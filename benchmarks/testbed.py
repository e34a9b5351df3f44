"""The testbed of the study: the miniature (or a folder like it), its concepts, and the embedder's calibration.

    python benchmarks/testbed.py [--miniature DIR]

writes DIR/embedder.network.json, the structure of the embedder as `python -m lib_loraclr evaluate` reads it, and says
how well the embedder tells identities apart that neither it nor any LoRA has seen.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib_loraclr.capture import Concept
from lib_loraclr.evaluation.folder import Pictures, read_pictures
from lib_loraclr.evaluation.metrics import Metrics, Numbers, calibrate, cosines
from lib_loraclr.evaluation.network import PictureNetwork, TrunkEmbedder, build_network, network_metrics
from lib_loraclr.evaluation.options import ConceptSet, Subject, load_set
from lib_loraclr.evaluation.scores import References
from lib_loraclr.formats.weighted import host_shapes, read_files
from lib_loraclr.generation.generator import ImageGenerator
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.merging.inputs import make_inputs
from lib_loraclr.model import DiffusionHost
from miniature import backgrounds, styles
from miniature import world as drawing
from miniature.concepts import difference
from miniature.measure import Embedder

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT, SHOTS, PROBES = 120, 5, 3


@dataclass
class Testbed:
    """A loaded model with everything it is measured by. `embedder_calibration`: the embedder's own errors."""

    __test__ = False  # or pytest takes the class for tests

    folder: Path
    generator: ImageGenerator
    set: ConceptSet
    metrics: Metrics
    references: dict[str, References]
    embedder_calibration: dict[str, Any]

    @property
    def host(self) -> DiffusionHost:
        """The loaded model."""
        return self.generator.host

    def subject(self, name: str) -> Subject:
        """A concept by name."""
        return next(s for s in self.set.subjects if s.name == name)

    def names(self, *kinds: str) -> list[str]:
        """Names of the concepts of these kinds, in the set's order."""
        return [s.name for s in self.set.subjects if s.kind in kinds]

    def concepts(self, names: Sequence[str]) -> list[Concept]:
        """The LoRAs of these concepts as a merge sees them."""
        choices = [self.subject(name).choice for name in names]
        loras = read_files([choice.file for choice in choices], self.host.layers())
        inputs, _ = make_inputs(choices, loras, self.host.base_weight, host_shapes(self.host))
        return [item.concept for item in inputs]


def describe(embedder: nn.Module) -> dict[str, Any]:
    """The structure of the miniature's embedder, read off the module itself."""
    layers: list[dict[str, Any]] = []
    for module in embedder.trunk:
        if isinstance(module, nn.Conv2d):
            layers.append({"type": "conv2d", "stride": module.stride[0], "padding": module.padding[0]})
        elif isinstance(module, nn.GroupNorm):
            layers.append({"type": "group_norm", "groups": module.num_groups})
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            layers.append({"type": "adaptive_avg_pool2d", "size": module.output_size})
        else:
            layers.append({"type": {"SiLU": "silu", "Flatten": "flatten"}[type(module).__name__]})
    background = {"prefix": "background_head", "labels": list(backgrounds.NAMES), "phrases": backgrounds.PHRASES}
    heads = {"identity": {"prefix": "identity_head"}, "style": {"prefix": "style_head"}, "background": background}
    return {
        "format": "loraclr-embedder", "version": 1, "size": [96, 96],
        "trunk": {"prefix": "trunk", "layers": layers}, "heads": heads,
    }  # fmt: skip


def load_embedder(weights: Path) -> PictureNetwork:
    """The miniature's embedder from its weights file alone."""
    state = load_file(weights)
    return build_network(describe(Embedder()), lambda key: state[key].float())


def open_testbed(folder: Path, *, held_out: int = HELD_OUT, device: str = "cpu") -> Testbed:
    """Load the model, embed the references, fix the thresholds on held-out identities and styles."""
    found = load_set(folder / "concepts.json")
    host = load_checkpoint(found.checkpoint or folder / "miniature.safetensors", device=device)
    network = load_embedder(found.embedder or folder / "embedder.safetensors")
    pictures = {s.name: read_pictures(s.references, side=96) for s in found.subjects}
    metrics = network_metrics(network, TrunkEmbedder.around(network, np.concatenate(list(pictures.values()))))
    calibration, thresholds = calibrate_embedder(metrics, host, held_out)
    metrics = replace(metrics, thresholds=thresholds)
    references = {s.name: References.of(s.kind, pictures[s.name], metrics) for s in found.subjects}
    return Testbed(folder, ImageGenerator(host), found, metrics, references, calibration)


def calibrate_embedder(metrics: Metrics, host: DiffusionHost, count: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The embedder on identities and styles of its own draw: error rates, agreement with the drawing's parameters."""
    people = [drawing.random_identity(random.Random(f"held out {k}")) for k in range(count)]
    drawn = [_shots(person, f"reference {k}", SHOTS) for k, person in enumerate(people)]
    probes = [_through_vae(host, _shots(person, f"probe {k}", PROBES)) for k, person in enumerate(people)]
    assert metrics.identity is not None
    assert metrics.style is not None
    known, seen = ([metrics.identity.vectors(p) for p in part] for part in (drawn, probes))
    identity = calibrate(known, seen)
    report: dict[str, Any] = {"identity": identity.as_dict()}
    for changes in (1, 2, 4):
        near = [drawing.near_identity(p, random.Random(f"near {k} {changes}"), changes) for k, p in enumerate(people)]
        other = [
            metrics.identity.vectors(_through_vae(host, _shots(p, f"near {k} {changes}", 1)))
            for k, p in enumerate(near)
        ]
        report[f"identity_{changes}_apart"] = _pairwise(known, seen, other)
    report["parameters"] = agreement(people, known, seen)
    looks = [styles.random_style(random.Random(f"held out style {k}")) for k in range(max(2, count // 2))]
    calm = [metrics.style.vectors(_styled(look, f"reference {k}", SHOTS)) for k, look in enumerate(looks)]
    quick = [
        metrics.style.vectors(_through_vae(host, _styled(look, f"probe {k}", PROBES))) for k, look in enumerate(looks)
    ]
    style = calibrate(calm, quick)
    report["style"] = style.as_dict()
    return report, {metrics.identity.name: identity.threshold, metrics.style.name: style.threshold}


def _shots(person: drawing.Identity, seed: str, count: int) -> Pictures:
    r = random.Random(f"{seed} {sorted(person.items())}")
    return np.array([np.asarray(drawing.render(person, drawing.random_scene(r))) for _ in range(count)])


def _styled(look: Mapping[str, str], seed: str, count: int) -> Pictures:
    r = random.Random(f"{seed} {sorted(look.items())}")
    pictures = [drawing.render(drawing.random_identity(r), drawing.random_scene(r), dict(look)) for _ in range(count)]
    return np.array([np.asarray(picture) for picture in pictures])


@torch.no_grad()
def _through_vae(host: DiffusionHost, pictures: Pictures) -> Pictures:
    """What generated pictures have gone through as well."""
    vae: Any = getattr(host, "vae", None)
    if vae is None:
        return pictures
    rows = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().to(host.info.device) / 127.5 - 1
    decoded = vae.decode(vae.encode(rows).latent_dist.mean).sample.clamp(-1, 1)
    return ((decoded + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _pairwise(known: Sequence[Numbers], own: Sequence[Numbers], near: Sequence[Numbers]) -> dict[str, float]:
    """How often a picture of the own identity is nearer to the references than one of a near identity."""
    wins = [(cosines(mine, refs)[:, None] > cosines(other, refs)[None]).mean() for refs, mine, other in
            zip(known, own, near, strict=True)]  # fmt: skip
    return {"own_is_nearer": round(float(np.mean(wins)), 4)}


def agreement(
    people: Sequence[drawing.Identity], known: Sequence[Numbers], seen: Sequence[Numbers]
) -> dict[str, float | int]:
    """Rank correlation of cosine and number of equal drawing parameters, over pairs of the same kind."""
    cosine, equal = [], []
    for i, a in enumerate(people):
        for j, b in enumerate(people):
            if i != j and a["kind"] == b["kind"]:
                cosine.append(float(cosines(seen[i], known[j]).mean()))
                equal.append(-difference(a, b))
    return {"rank_correlation": round(spearman(cosine, equal), 4), "pairs": len(cosine)}


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of ranks, ties sharing their mean rank; NaN where one side does not vary."""
    ranks = [_ranks(np.asarray(values, float)) for values in (a, b)]
    spread = [rank.std() for rank in ranks]
    if len(a) < 2 or min(spread) == 0:
        return float("nan")
    return float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean() / (spread[0] * spread[1]))


def _ranks(values: Numbers) -> Numbers:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--miniature", type=Path, default=ROOT / "miniature")
    given = parser.parse_args(arguments)
    path = given.miniature / "embedder.network.json"
    path.write_text(json.dumps(describe(Embedder()), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(open_testbed(given.miniature).embedder_calibration, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""How long the solve of a merge takes, what it leaves and what memory it needs, against the published loops.

    python benchmarks/merge_speed.py [--quick] [--statistics synthetic miniature] [--out FILE]

Rows of the result: {statistics, n, layers, method, seconds, residual, peak_memory_mib}, and `rows`, the captured rows a
concept. `residual` is sum_i |(dW - dW_i) X_i|^2 / sum_i |dW_i X_i|^2 on those rows: 1 is no LoRA at all, 0 is perfect.
Each solve runs in its own process; `peak_memory_mib` is what it needed on top of the imported program, its inputs
included: all rows for the loops, second moments for ours. `seconds` is the solve alone; `moments_seconds` what summing
the rows into moments took, which a capture does while the sampler runs.

Rows of other statistics that the file already has, measured with the same settings, stay.

The rows are capped (a real SD1.5 capture has 80,000 a concept and more). That favours the loops, whose time grows with
the rows, while the closed form's does not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.lbfgs import lbfgs
from lib_loraclr.core.deltas import LayerShape, LowRank
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.methods import complete_options, get_method
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem, Statistics

T = TypeVar("T")
METHODS = ("adamw-50", "lbfgs-50", "gradient-fusion", "contrastive")
COUNTS = (2, 4, 8, 12)
RANK = 8
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Layer:
    """One layer: `file` holds captured rows and deltas; without it both are drawn."""

    statistics: str
    family: str
    out: int
    size: int
    rows: int
    file: str | None = None


SYNTHETIC = (
    Layer("sd15", "text encoder 768x768", 768, 768, 512),
    Layer("sd15", "cross k/v 320x768", 320, 768, 512),
    Layer("sd15", "attention 320x320", 320, 320, 1024),
    Layer("sd15", "feed forward 320x1280", 320, 1280, 512),
    Layer("sd15", "attention 1280x1280", 1280, 1280, 512),
    Layer("sdxl", "cross k/v 640x2048", 640, 2048, 512),
    Layer("sdxl", "attention 640x640", 640, 640, 512),
    Layer("sdxl", "attention 1280x1280", 1280, 1280, 512),
)
QUICK = (
    Layer("sd15", "cross k/v 320x768", 320, 768, 256),
    Layer("sd15", "attention 320x320", 320, 320, 512),
    Layer("sdxl", "attention 640x640", 640, 640, 256),
)


def concepts(layer: Layer, count: int) -> Iterator[tuple[Tensor, LowRank]]:
    """Rows (rows, in) and delta of each concept, one at a time: read from the capture, or drawn.

    Drawn concepts share a decaying spectrum of directions and have a few of their own; deltas have entries of about
    2e-3, as trained LoRAs do.
    """
    if layer.file is not None:
        stored = torch.load(layer.file, weights_only=True, mmap=True)
        for part in stored[:count]:
            yield part["rows"].float(), LowRank(part["up"].float(), part["down"].float())
        return
    shared = torch.Generator().manual_seed(layer.size * 31 + layer.out)
    common = torch.randn(layer.size, layer.size, generator=shared) * torch.logspace(0, -2, layer.size)[:, None]
    for index in range(count):
        generator = torch.Generator().manual_seed(1000 * index + layer.size + layer.out)

        def draw(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, generator=generator)

        own = draw(8, layer.size)
        rows = draw(layer.rows, layer.size) @ common * layer.size**-0.5 + draw(layer.rows, 8) @ own * 0.3
        down = draw(RANK, layer.size) + draw(RANK, 8) @ own
        yield rows, LowRank(draw(layer.out, RANK), down * (2e-3 / (3 * RANK**0.5)))


def adamw_50(rows: Tensor, targets: Tensor) -> Tensor:
    """LoRACLR as published: 50 steps of AdamW at 1e-4 on its contrastive loss, float32, margin 0.5, lambda 0.001.

    rows (N, n, in) and targets (N, n, out); distances are between whole flattened responses, base output left out on
    both sides. Returns dW (out, in).
    """
    update = torch.zeros(targets.shape[-1], rows.shape[-1], requires_grad=True)
    optimiser = torch.optim.AdamW([update], lr=1e-4, weight_decay=1e-4)
    flat, count = targets.flatten(1), len(rows)
    for _ in range(50):
        predicted = (rows @ update.T).flatten(1)
        squared = (flat**2).sum(1)[:, None] + (predicted**2).sum(1)[None] - 2 * flat @ predicted.T
        distances = squared.clamp(min=1e-12).sqrt()
        negatives = distances + torch.diag(torch.full((count,), float("inf")))
        hinge = (0.5 - negatives.min(dim=1).values).clamp(min=0)
        loss = (distances.diagonal() ** 2 + hinge**2).mean() + 0.001 * update.norm()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return update.detach()


def lbfgs_50(rows: Tensor, targets: Tensor) -> Tensor:
    """Gradient fusion as published: L-BFGS, 50 iterations, strong Wolfe, on the mean squared error of all rows."""
    return lbfgs(rows.flatten(0, 1), targets.flatten(0, 1), 50)


def timed(solve: Callable[[], T]) -> tuple[T, float]:
    """The result and the seconds it took: the median of three runs where one takes less than a second."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        result = solve()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 3 or seconds[0] >= 1.0:
            return result, sorted(seconds)[len(seconds) // 2]


def solve_ours(layer: Layer, count: int, method: str) -> tuple[Tensor, float, float]:
    """dW (out, in), seconds of the solve, seconds of summing the moments."""
    moments, deltas, summing = [], [], 0.0
    for rows, delta in concepts(layer, count):
        start = time.perf_counter()
        moment = SecondMoment.zeros(layer.size)
        moment.add(rows)
        summing += time.perf_counter() - start
        moments.append(moment)
        deltas.append(delta)
    problem = LayerProblem(layer.family, LayerShape(layer.out, layer.size), deltas, Statistics(moments))
    given: dict[str, Any] = {"published": True} if method == "gradient-fusion" else {"prior_preservation": 0.0}
    options = complete_options(method, given)
    with exact_float32():
        merged, seconds = timed(lambda: get_method(method).solve(problem, options).delta)
    return merged.dense().float(), seconds, summing


def solve_loop(layer: Layer, count: int, method: str) -> tuple[Tensor, float]:
    """dW (out, in) and seconds of the loop."""
    parts = list(concepts(layer, count))
    rows = torch.stack([rows for rows, _ in parts])
    targets = torch.stack([x @ delta.down.T @ delta.up.T for x, delta in parts])
    del parts
    return timed(lambda: (adamw_50 if method == "adamw-50" else lbfgs_50)(rows, targets))


def residual(layer: Layer, count: int, update: Tensor) -> float:
    """What the merge leaves undone, on the rows."""
    lost = total = 0.0
    for rows, delta in concepts(layer, count):
        wanted = rows @ delta.down.T @ delta.up.T
        lost += float((rows @ update.T - wanted).square().sum(dtype=torch.float64))
        total += float(wanted.square().sum(dtype=torch.float64))
    return lost / total


def resident_mib(field: str) -> float:
    """VmRSS or VmHWM of this process; the peak of the whole process where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def warm_up() -> None:
    """Loads what torch loads on first use (LAPACK, autograd's threads, all of torch._dynamo for an optimiser)."""
    torch.linalg.cholesky(torch.eye(2, dtype=torch.float64))
    small = torch.ones(2, 3, 4)
    adamw_50(small, small)
    lbfgs_50(small, small)


def measure(layer: Layer, count: int, method: str, threads: int) -> dict[str, Any]:
    """One row of the result; runs in its own process."""
    torch.set_num_threads(threads)
    warm_up()
    before = resident_mib("VmRSS")
    extra = {}
    if method in ("adamw-50", "lbfgs-50"):
        update, seconds = solve_loop(layer, count, method)
    else:
        update, seconds, summing = solve_ours(layer, count, method)
        extra["moments_seconds"] = round(summing, 5)
    peak = resident_mib("VmHWM") - before
    return {
        "statistics": layer.statistics,
        "n": count,
        "layers": layer.family,
        "method": method,
        "seconds": round(seconds, 5),
        "residual": round(residual(layer, count, update), 6),
        "peak_memory_mib": round(peak, 1),
        "rows": layer.rows,
        **extra,
    }


def in_own_process(connection: Any, layer: Layer, count: int, method: str, threads: int) -> None:
    """Entry of a child process: the row, or the error as text."""
    try:
        connection.send(measure(layer, count, method, threads))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")


def run(layers: Sequence[Layer], counts: Sequence[int], threads: int) -> list[dict[str, Any]]:
    """All rows; progress goes to standard error."""
    posix = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if posix else "spawn")
    if posix:
        context.set_forkserver_preload(["torch._dynamo", "lib_loraclr.core.merge"])
    results: list[dict[str, Any]] = []
    for layer in layers:
        for count in counts:
            for method in METHODS:
                mine, theirs = context.Pipe()
                child = context.Process(target=in_own_process, args=(theirs, layer, count, method, threads))
                child.start()
                theirs.close()
                row = mine.recv()
                child.join()
                if isinstance(row, str):
                    raise RuntimeError(f"{layer.family}, N = {count}, {method}: {row}")
                print("{statistics:9} {layers:24} N={n:<3} {method:16} {seconds:9.3f} s  residual {residual:.4f}  "
                      "{peak_memory_mib:7.0f} MiB".format(**row), file=sys.stderr)  # fmt: skip
                results.append(row)
    return results


def others(path: Path, settings: dict[str, Any], measured: set[str]) -> list[dict[str, Any]]:
    """The file's rows of what was not measured now, where it was measured with these settings."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = known.get("rows", []) if known.get("settings") == settings else []
    return [row for row in rows if row["statistics"] not in measured]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--statistics", nargs="+", choices=("synthetic", "miniature"), default=["synthetic"])
    parser.add_argument("--quick", action="store_true", help="three layer families, N = 2 and 4: under a minute")
    parser.add_argument(
        "--all-layers", action="store_true", help="every layer of the miniature, not one of each family"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "miniature" / "miniature.safetensors")
    parser.add_argument("--loras", type=Path, default=ROOT / "miniature" / "loras", help="folder of .safetensors files")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "merge_speed.json")
    given = parser.parse_args(arguments)
    counts = COUNTS[:2] if given.quick else COUNTS
    results: list[dict[str, Any]] = []
    if "synthetic" in given.statistics:
        results += run(QUICK if given.quick else SYNTHETIC, counts, given.threads)
    if "miniature" in given.statistics:
        from miniature_rows import capture_rows

        with tempfile.TemporaryDirectory() as folder:
            rows = 512 if given.quick else 2048
            stored = capture_rows(
                given.checkpoint, given.loras, Path(folder), max(counts), rows, every_layer=given.all_layers
            )
            results += run([Layer("miniature", **part) for part in stored], counts, given.threads)
    settings = {"threads": given.threads, "torch": torch.__version__, "machine": platform.machine(), "rank": RANK}
    results = [*others(given.out, settings, {row["statistics"] for row in results}), *results]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"settings": settings, "rows": results}, indent=1) + "\n")
    print(f"wrote {given.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

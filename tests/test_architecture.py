"""The import arrows of the design, read with `ast`: a layer may import only what stands below it."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "lib_loraclr"

GROUND = {
    "cost",
    "model",
    "samplers",
    "options",
    "timing",
    "html",
    "charts",
}  # files of lib_loraclr itself: what every layer stands on
# layer -> layers of lib_loraclr it may import besides itself and GROUND
ARROWS = {
    "": {"core"},
    "core": {"options"},
    "formats": {"core"},
    "regional": {"core", "formats"},
    "capture": {"core", "formats"},
    "distill": {"core", "formats", "capture"},
    "merging": {"core", "formats", "capture", "distill"},
    "generation": {"core", "formats", "regional", "capture"},
    "evaluation": {"core", "formats", "capture", "merging", "generation"},
    "app": {"core", "formats", "regional", "capture", "distill", "merging", "generation", "evaluation"},
    "hosts": {"core", "formats", "regional", "capture", "app", "evaluation"},
    "frontends": {
        "core",
        "formats",
        "regional",
        "capture",
        "distill",
        "merging",
        "generation",
        "evaluation",
        "app",
        "hosts",
    },
}
HOST_MODULES = {"modules", "modules_forge", "backend", "networks", "ldm_patched", "diffusers", "transformers"}
THIRD_PARTY = {
    "": {"torch", "jinja2", "markupsafe", "PIL"},
    "core": {"torch"},
    "regional": {"torch", "PIL"},
    "formats": {"torch", "safetensors", "numpy"},
    "capture": {"torch", "safetensors"},
    "distill": {"torch"},
    "merging": {"torch"},
    "generation": {"torch", "PIL"},
    "evaluation": {"torch", "numpy", "PIL", "markupsafe"},
    "app": {"torch"},
}
GENERIC_NAMES = {"utils", "lib", "core", "common", "helpers", "conftest", "setup", "tests", "scripts"}


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted module) of every import in a file, lazy ones included; relative ones resolved."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            module = (base + (node.module or "")).strip(".")
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def layer_of(path: Path) -> str:
    """First folder below lib_loraclr, or "" for the files that stand in it."""
    parts = path.relative_to(LIBRARY).parts
    return parts[0] if len(parts) > 1 else ""


def library_files() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


@pytest.mark.parametrize("path", library_files(), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_follow_the_arrows(path: Path) -> None:
    layer = layer_of(path)
    if path.stem.startswith("__"):
        return
    allowed = ARROWS[layer] | (set() if layer == "core" else GROUND)
    for line, module in imports(path):
        root, _, rest = module.partition(".")
        if root == "lib_loraclr":
            target = rest.split(".")[0]
            assert target in {layer, "version", "__version__"} | allowed, f"{path.name}:{line} {module}"
        elif root in HOST_MODULES:
            assert layer == "hosts", f"{path.name}:{line} imports host module {module}"
        elif root == "miniature":
            pytest.fail(f"{path.name}:{line}: the library never imports the miniature")
        elif layer in THIRD_PARTY and root not in sys.stdlib_module_names:
            assert root in THIRD_PARTY[layer], f"{path.name}:{line} {module} is not for {layer}"


def test_no_circle_of_rooms() -> None:
    """Neither between the rooms nor between the rooms inside `frontends`: every import goes one way."""
    edges: dict[str, set[str]] = {}
    for path in library_files():
        room = room_of(path.relative_to(ROOT).with_suffix("").parts)
        for _, module in imports(path):
            other = room_of(tuple(module.split(".")))
            if other and room and other != room:
                edges.setdefault(room, set()).add(other)
    order = TopologicalSorter(edges)
    order.prepare()  # raises CycleError with the rooms in it


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module of the library; "" for the ground floor's files and for everything else."""
    if parts[0] != "lib_loraclr" or not (LIBRARY / Path(*parts[1:2])).is_dir() or len(parts) < 3:
        return ""
    return ".".join(parts[1:3]) if parts[1] == "frontends" else parts[1]


@pytest.mark.parametrize("path", library_files(), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_no_global_random_state_and_no_fixed_device(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for forbidden in ("torch.manual_seed", "random.seed(", "np.random.", "cuda:0", "pickle.load"):
        assert forbidden not in text, f"{path.name}: {forbidden}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords), path.name


def test_top_level_names_collide_with_nobody() -> None:
    """Forge leaves every extension's root on sys.path for good, so a generic module name there breaks others."""
    modules = {p.stem for p in ROOT.glob("*.py")} | {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert not modules & GENERIC_NAMES
    assert modules <= {"install", "lib_loraclr", "miniature", "preload"}


def test_every_layer_of_the_design_is_checked() -> None:
    folders = {p.name for p in LIBRARY.iterdir() if p.is_dir() and p.name != "__pycache__" and any(p.glob("*.py"))}
    assert folders <= set(ARROWS)

"""A running tab for browser tests: a small checkpoint, LoRAs as a user has them, the page in this very process."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MINIATURE = ROOT / "miniature"
NAMES = ("anna", "ben", "ink")


@dataclass
class RunningTab:
    """The page's address and the application behind it."""

    address: str
    application: Any
    loras: Path
    names: tuple[str, ...]
    known: frozenset[str]

    def merged(self) -> list[str]:
        """Names of the files in the folder that were not there at the start."""
        return sorted(files_in(self.loras) - self.known)


@contextmanager
def running_tab(folder: Path) -> Iterator[RunningTab]:
    """Serve the tab on a free port over a fresh folder; closed at the end."""
    from gradio import networking

    from lib_loraclr.frontends.tab.tab import build_page
    from lib_loraclr.hosts.standalone.application import StandaloneApplication

    networking.url_ok = lambda url: True  # its own three seconds are not enough on a machine that is busy
    checkpoint, names = fill(folder)
    known = frozenset(files_in(folder / "loras"))
    application = StandaloneApplication(folder / "loras", checkpoint, device="cpu", cache=folder / "cache")
    page = build_page(application)
    _, address, _ = page.launch(
        server_name="127.0.0.1", share=False, show_api=False, quiet=True, prevent_thread_lock=True
    )
    try:
        yield RunningTab(address, application, folder / "loras", names, known)
    finally:
        page.close()


def files_in(folder: Path) -> set[str]:
    """Names of the LoRAs of a folder."""
    return {path.stem for path in folder.glob("*.safetensors")}


def fill(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """(checkpoint, names of three LoRAs to merge) with files that cannot be used beside them."""
    import torch
    from safetensors.torch import save_file

    loras = folder / "loras"
    loras.mkdir(parents=True)
    checkpoint, names = from_miniature(loras) if has_miniature() else from_scratch(folder, loras)
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    wide = {f"{key}.lora_up.weight": torch.zeros(640, 4), f"{key}.lora_down.weight": torch.zeros(4, 2048)}
    save_file(wide, loras / "other base.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    (loras / "cut short.safetensors").write_bytes((loras / f"{names[0]}.safetensors").read_bytes()[:3000])
    return checkpoint, names


def has_miniature() -> bool:
    """Whether the miniature's weights are in the tree."""
    return (MINIATURE / "miniature.safetensors").is_file() and len(miniature_loras()) >= 3


def miniature_loras() -> list[Path]:
    """Its LoRA files by name."""
    return sorted((MINIATURE / "loras").glob("*.safetensors"))


def from_miniature(loras: Path) -> tuple[Path, tuple[str, ...]]:
    """All of its LoRAs are offered, three are merged."""
    for path in miniature_loras():
        (loras / path.name).write_bytes(path.read_bytes())
    return MINIATURE / "miniature.safetensors", tuple(path.stem for path in miniature_loras()[:3])


def from_scratch(folder: Path, loras: Path) -> tuple[Path, tuple[str, ...]]:
    """A tiny random checkpoint and three random LoRAs for it, by the builders of the other tests."""
    models, files = load("conftest", ROOT / "tests"), load("tiny_loras", ROOT / "tests" / "jobs")
    build = models.LdmTensors(1)
    build.unet(32, [1, 2, 2], [1, 1, 0], context=32, linear=False)
    build.vae([32, 32, 32, 32])
    build.clip("cond_stage_model.transformer", 32, 2)
    sizes = {"base": 32, "resolutions": [1, 2], "multiples": [1, 2, 2], "context": 32}
    text = models.YAML.format(heads="num_heads: 8", parameterization="", **sizes)
    (folder / "tiny.yaml").write_text(text)
    for number, (name, words) in enumerate(zip(NAMES, ("anna woman", "ben toy", "ink style"), strict=True)):
        tags = json.dumps({f"10_{words}": {words: 10, "smile": 4}})
        files.write_lora_file(loras / f"{name}.safetensors", files.lora_tensors(number + 1), ss_tag_frequency=tags)
    return build.save(folder / "tiny.safetensors"), NAMES


def load(name: str, folder: Path) -> Any:
    """A helper module of another test folder, by path: two folders have a module of this name."""
    spec = importlib.util.spec_from_file_location(f"loraclr_{folder.name}_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class TabPage:
    """The tab as a person sees it: what can be clicked, typed and read. `page` is Playwright's."""

    def __init__(self, page: Any, tab: RunningTab) -> None:
        self.page, self.tab = page, tab
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(180_000)  # patience costs nothing where nothing is wrong

    def open(self, theme: str = "light") -> None:
        """Load the page and wait for the list with everything that is known about its files."""
        self.page.goto(f"{self.tab.address}?__theme={theme}", wait_until="domcontentloaded")
        self.row(self.tab.names[0]).locator(".lct-badge").first.wait_for(timeout=120_000)

    def shot(self, name: str, part: str = "") -> None:
        """Pictures of this state, or of one part of the page, light and dark, into the folder LORACLR_SCREENSHOTS."""
        folder = os.environ.get("LORACLR_SCREENSHOTS")
        for theme in ("light", "dark") if folder else ():
            self.page.evaluate(f"document.body.classList.toggle('dark', {str(theme == 'dark').lower()})")
            self.page.mouse.move(0, 0)
            self.page.wait_for_timeout(300)
            path = Path(str(folder)) / f"{name}-{theme}.png"
            if part:
                self.page.locator(part).first.screenshot(path=path, timeout=120_000)
            else:
                self.page.screenshot(path=path, full_page=True, timeout=120_000)
        if folder:
            self.page.evaluate("document.body.classList.remove('dark')")

    def for_shots(self, good: int, quick: int) -> int:
        """A number that makes good pictures where pictures of the page are taken, and quick ones elsewhere."""
        return good if os.environ.get("LORACLR_SCREENSHOTS") else quick

    def row(self, name: str) -> Any:
        """The line of the list."""
        return self.page.locator(f'.lct-item[data-name="{name}"] .lct-row')

    def card(self, name: str) -> Any:
        """The card of a chosen LoRA."""
        return self.page.locator(f'.lct-card[data-name="{name}"]')

    def field(self, name: str, field: str) -> Any:
        """An input of a card."""
        return self.card(name).locator(f'[data-field="{field}"]')

    def choose(self, *names: str) -> None:
        """Click the lines and wait for the cards."""
        for name in names:
            self.row(name).click()
        for name in names:
            self.card(name).wait_for()

    def set_number(self, elem_id: str, value: object) -> None:
        """Type into a gradio number."""
        self.page.locator(f"#{elem_id} input").fill(str(value))
        self.page.locator(f"#{elem_id} input").blur()

    def open_advanced(self) -> None:
        """Unfold the advanced settings."""
        if not self.page.locator("#loraclr_capture_sampling_steps input").is_visible():
            self.page.locator("#loraclr_advanced > button, #loraclr_advanced .label-wrap").first.click()
        self.page.locator("#loraclr_capture_sampling_steps input").wait_for()

    def quick(self, steps: int, rounds: int = 1) -> None:
        """Settings for a merge of seconds."""
        self.open_advanced()
        self.set_number("loraclr_capture_sampling_steps", steps)
        self.set_number("loraclr_capture_prompts", 4)  # fewer rows than features would keep nothing
        self.set_number("loraclr_capture_neutral_prompts", 1)
        self.set_number("loraclr_gradient_fusion_rounds", rounds)
        self.set_number("loraclr_capture_distill_steps_per_lora", 2)

    def name(self, text: str) -> None:
        """Name the new LoRA."""
        self.page.locator("#loraclr_name :is(input, textarea)").fill(text)

    def merge(self) -> None:
        """Press Merge and wait until it runs."""
        self.page.locator("#loraclr_generate").click()
        self.page.locator("#loraclr_progress").wait_for(timeout=60_000)

    def percent(self) -> float:
        """Where the bar stands."""
        return float(self.page.locator(".lct-track").get_attribute("aria-valuenow") or 0)

    def wait_done(self, seconds: float = 240) -> None:
        """Until the bar is gone and Merge can be pressed again."""
        self.page.locator("#loraclr_progress").wait_for(state="hidden", timeout=seconds * 1000)
        self.page.locator("#loraclr_generate").wait_for(timeout=60_000)

    def cards_now(self) -> dict[str, dict[str, str]]:
        """Every card's fields."""
        read = "cards => cards.map(c => [c.dataset.name, [...c.querySelectorAll('[data-field]')].map(i => [i.dataset.field, i.value])])"  # noqa: E501
        found = self.page.locator(".lct-card").evaluate_all(read)
        return {name: dict(fields) for name, fields in found}

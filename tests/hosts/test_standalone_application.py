"""A folder of LoRAs and a checkpoint as the program around a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_loraclr.app.catalogue import FolderCatalogue
from lib_loraclr.app.cost import MergeCost
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.weighted import find_lora
from lib_loraclr.hosts.standalone.application import StandaloneApplication
from lib_loraclr.merging.config import config_of
from lib_loraclr.merging.options import parse_merge_options
from lib_loraclr.model import Phase


def lora_file(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = torch.Generator().manual_seed(seed)
    stem = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file(
        {
            f"{stem}.lora_down.weight": torch.randn(2, 32, generator=values),
            f"{stem}.lora_up.weight": torch.randn(128, 2, generator=values),
            f"{stem}.alpha": torch.tensor(2.0),
        },
        path,
    )
    return path


def test_catalogue_lists_stems_thumbnails_and_sidecars(tmp_path: Path) -> None:
    lora_file(tmp_path / "b" / "Alice.safetensors")
    lora_file(tmp_path / "zed.safetensors")
    lora_file(tmp_path / ".trash" / "hidden.safetensors")
    (tmp_path / "notes.txt").write_text("no LoRA")
    (tmp_path / "zed.preview.png").write_bytes(b"")
    (tmp_path / "zed.json").write_text(json.dumps({"activation text": "zed woman"}))
    entries = FolderCatalogue(tmp_path).entries()
    assert [entry.name for entry in entries] == ["Alice", "zed"]
    assert entries[0].path == tmp_path / "b" / "Alice.safetensors"
    assert entries[0].thumbnail is None
    assert entries[0].user_metadata == {}
    assert entries[1].thumbnail == tmp_path / "zed.preview.png"
    assert entries[1].user_metadata["activation text"] == "zed woman"


def test_equal_stems_get_different_names_that_jobs_can_find(tmp_path: Path) -> None:
    paths = [lora_file(tmp_path / folder / "same.safetensors", n) for n, folder in enumerate(("one", "two"))]
    entries = {entry.name: entry.path for entry in FolderCatalogue(tmp_path).entries()}
    assert sorted(entries.values()) == paths
    for name, path in entries.items():
        assert find_lora(name, tmp_path) == path


def test_a_new_file_appears_after_written_and_links_in_a_circle_end(tmp_path: Path) -> None:
    catalogue = FolderCatalogue(tmp_path)
    assert catalogue.entries() == []
    (tmp_path / "again").symlink_to(tmp_path)
    path = lora_file(tmp_path / "merged.safetensors")
    assert catalogue.entries() == []
    catalogue.written(path)
    assert [entry.name for entry in catalogue.entries()] == ["merged"]


def test_model_is_described_without_loading_and_loaded_once(tmp_path: Path, tiny_sd1: Path) -> None:
    application = StandaloneApplication(tmp_path, tiny_sd1, device="cpu")
    before = application.model()
    assert before is not None
    assert (before.name, before.family, before.native_size, before.sha256) == ("tiny_sd1", "sd1", 64, "")
    host = application.open_host(None, "auto")
    assert application.model() == host.info
    assert application.open_host(tiny_sd1, "cpu") is host


def test_without_a_usable_checkpoint_there_is_no_model(tmp_path: Path) -> None:
    application = StandaloneApplication(tmp_path)
    assert application.model() is None
    with pytest.raises(InputError) as error:
        application.open_host(None, "cpu")
    assert error.value.code == "no-checkpoint"
    assert StandaloneApplication(tmp_path, tmp_path / "gone.safetensors").model() is None
    assert StandaloneApplication(tmp_path, lora_file(tmp_path / "a.safetensors")).model() is None


@pytest.mark.parametrize(("preset", "rounds"), [("instant", None), ("text", 2), ("layerwise", 3), ("distilled", 3)])
def test_expected_phases_follow_the_plan(tmp_path: Path, preset: str, rounds: int | None) -> None:
    raw = {"lora": ["a.safetensors"], "out": "m.safetensors", "preset": preset, "device": "cpu"}
    plan = config_of(parse_merge_options({**raw, "option": {} if rounds is None else {"rounds": rounds}}))
    names = [one.phase for one in MergeCost.of(plan).phases]
    assert names[0] is Phase.READ
    assert names[-2:] == [Phase.SOLVE, Phase.WRITE]
    assert names.count(Phase.WATCH) == (0 if rounds is None else rounds + 1)
    learning = [Phase.SOLVE, Phase.EVALUATE, Phase.DRAW, Phase.LEARN, Phase.SOLVE, Phase.WRITE]
    assert (names[-6:] == learning) == (preset == "distilled")


def test_a_longer_distillation_is_expected_to_take_longer(tmp_path: Path) -> None:
    raw = {"lora": ["a.safetensors", "b.safetensors"], "out": "m.safetensors", "device": "cpu"}
    plans = [config_of(parse_merge_options({**raw, "option": {"distill_steps_per_lora": steps}})) for steps in (5, 100)]
    short, long = ({one.phase: one.count.work for one in MergeCost.of(plan).phases} for plan in plans)
    assert long[Phase.LEARN] == 20 * short[Phase.LEARN] == 3 * 12 * 200
    assert long[Phase.DRAW] == short[Phase.DRAW] == (2 * 16 + 32) * (2 * 20 + 16)

"""The tab's questions and answers without a browser: open, choose, merge, refuse, cancel, result, recipe, preview."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from ui_parts import FakeApplication, write_lora

from lib_loraclr.app.jobs import OUT_OF_MEMORY, Job
from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.formats import FileWarning
from lib_loraclr.frontends.tab import settings
from lib_loraclr.frontends.tab.choices import Choice
from lib_loraclr.frontends.tab.controller import TabController
from lib_loraclr.frontends.tab.facts import Interferences
from lib_loraclr.frontends.tab.preview import Grid, GridConcept, GridRequest
from lib_loraclr.frontends.tab.views import MergeResult, grid_html, interference_html, result_html
from lib_loraclr.generation.generator import SamplingParams
from lib_loraclr.hosts.standalone.application import StandaloneApplication
from lib_loraclr.merging.outcome import ConceptOutcome, MergeOutcome
from lib_loraclr.model import Phase

TWO = [{"name": "anna"}, {"name": "ben"}]


def values(**changes: Any) -> dict[str, Any]:
    """The controls' values: a merge without a model, and what a test changes."""
    return {**settings.defaults(), "preset": "instant", "method": "sum", **changes}


@pytest.fixture
def controller(application: FakeApplication) -> TabController:
    return TabController(application)


def costs(controller: TabController, choices: Any, changed: dict[str, Any]) -> str:
    """The estimate as it is shown."""
    return controller.estimate(choices, changed)["html"]["costs"]


def wait(controller: TabController, seconds: float = 60) -> None:
    """Until nothing runs."""
    for job in controller.jobs.active("merge", "preview"):
        assert job.wait(seconds)


def ended(controller: TabController) -> str:
    """The result panel once nothing runs."""
    wait(controller)
    return controller.finish()["html"]["result"]


def test_opening_tells_the_model_and_all_names(controller: TabController) -> None:
    reply = controller.open()
    assert reply["names"] == ["anna", "ben", "cut", "ink", "xl"]
    assert "tiny" in reply["html"]["model"]
    assert reply["html"]["picker"].count('role="option"') == 5


def test_one_look_at_the_list_serves_a_whole_question(
    controller: TabController, application: FakeApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A WebUI empties its list while it reads its folders again."""
    whole = list(application.catalogue.entries())
    for ask in (
        lambda: controller.interference(TWO),
        lambda: controller.estimate(TWO, values()),
        lambda: controller.merge(TWO, "task(1)", values(name="both")),
    ):
        looks = iter([whole])
        monkeypatch.setattr(application.catalogue, "entries", lambda looks=looks: next(looks, []))
        assert "lct-error" not in json.dumps(ask())
    assert "both" in ended(controller)


def test_details_only_of_names_in_the_catalogue(controller: TabController, folder: Path) -> None:
    asked = ["anna", "../anna", str(folder / "ben.safetensors"), "cut", 3]
    rows = controller.details(asked)["rows"]
    assert set(rows) == {"anna", "cut"}
    assert rows["anna"]["reason"] == ""
    assert rows["cut"]["reason"]
    assert controller.details("{")["rows"] == {}


def test_cards_come_back_completed(controller: TabController) -> None:
    reply = controller.cards([{"name": "ben"}, {"name": "gone"}])
    (choice,) = reply["choices"]
    assert (choice["trigger"], choice["weight"]) == ("ben cup", "0.8")
    assert "gone" in reply["html"]["cards"]


def test_a_merge_writes_the_file_and_tells_how_to_use_it(controller: TabController, folder: Path) -> None:
    started = controller.merge(TWO, "task(1)", values(name="both"))
    assert started["started"]
    html = ended(controller)
    assert (folder / "both.safetensors").is_file()
    assert "both.safetensors" in html
    assert "&lt;lora:both:1&gt; anna woman, ben cup" in html
    about = controller.finish()
    assert about["result"]["prompt"] == "<lora:both:1> anna woman, ben cup"
    assert not about["failed"]
    assert "both" in controller.open()["names"]
    assert controller.details(["both"])["rows"]["both"]["recipe"]
    assert controller.next_name("both") == "both-2"


def test_the_recipe_of_a_merged_file_brings_everything_back(controller: TabController) -> None:
    chosen = [{"name": "ben", "weight": "0.5", "te_weight": "0.25", "trigger": "x", "class_word": "y"}, {"name": "ink"}]
    changed = {"method": "ties", "ties.density": 0.3, "dtype": "bf16", "name": "recipe"}
    controller.merge(chosen, "task(1)", values(**changed))
    ended(controller)
    reply = controller.load_recipe("recipe")
    items, found = reply["choices"], reply["values"]
    assert {**items[0], "te_weight": items[0]["te_weight"]} == {
        "name": "ben", "weight": "0.5", "te_weight": "0.25", "trigger": "x", "class_word": "y", "kind": "character",
    }  # fmt: skip
    assert items[1]["name"] == "ink"
    assert {name: found[name] for name in ("method", "ties.density", "dtype", "name")} == {
        **changed,
        "name": "recipe-2",
    }
    assert "holds no recipe" in controller.load_recipe("anna")["status"]
    assert "holds no recipe" in controller.load_recipe("../x")["status"]


def test_where_no_statistics_are_kept_none_stay_behind(
    tmp_path: Path, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORACLR_CACHE", str(tmp_path / "usual"))
    for seed, name in enumerate(("anna", "ben")):
        write_lora(tmp_path / "loras" / f"{name}.safetensors", seed)
    application = StandaloneApplication(tmp_path / "loras", tiny_sd1, device="cpu")
    monkeypatch.setattr(application, "cache_folder", lambda: None)
    controller = TabController(application)
    chosen = [{"name": "anna", "trigger": "anna woman"}, {"name": "ben", "trigger": "ben man"}]
    quick = {"capture.sampling_steps": 1, "capture.prompts": 1, "capture.neutral_prompts": 1, "contrastive.rounds": 1}
    settled = values(name="both", preset="layerwise", method="contrastive", report=False, **quick)
    assert "lct-fact" in costs(controller, chosen, settled)
    assert controller.merge(chosen, "task(1)", settled)["started"]
    wait(controller, 600)
    about = controller.finish()
    assert about["result"]["name"] == "both"
    assert not about["result"]["again"]
    assert not (tmp_path / "usual").exists()


@pytest.mark.parametrize(
    ("selection", "changes", "words"),
    [
        ([], {}, "No LoRA was chosen"),
        (TWO, {"name": "anna"}, "exists"),
        (TWO, {"name": "../up"}, "A name may not"),
        (TWO, {"method": "contrastive"}, "preset"),
        ([{"name": "anna", "weight": "x"}], {}, "is not a number"),
        ("{", {}, "damaged"),
    ],
)
def test_what_cannot_be_merged_is_said_at_once(
    controller: TabController, folder: Path, selection: Any, changes: dict[str, Any], words: str
) -> None:
    before = sorted(folder.iterdir())
    reply = controller.merge(selection, "task(1)", values(**changes))
    assert not reply["started"]
    assert words in reply["status"]
    assert 'role="alert"' in reply["status"]
    assert sorted(folder.iterdir()) == before


def test_files_of_two_bases_end_in_a_sentence(controller: TabController, folder: Path) -> None:
    controller.merge([{"name": "anna"}, {"name": "xl"}], "task(1)", values())
    ended(controller)
    reply = controller.finish()
    assert reply["failed"]
    assert "cannot work together" in reply["status"]
    assert not (folder / "merged.safetensors").exists()


def test_a_second_start_while_one_runs_is_refused(controller: TabController) -> None:
    hold, running = threading.Event(), threading.Event()

    def body(job: Job) -> str:
        running.set()
        assert hold.wait(60)
        return "done"

    first = controller.jobs.start("merge", "first", body, job_id="task(1)", owner="tab")
    assert running.wait(60)
    reply = controller.merge(TWO, "task(2)", values())
    assert not reply["started"]
    assert "running already" in reply["status"]
    assert controller.poll("task(2)")["task"] == "task(1)"
    assert controller.open()["task"] == "task(1)"
    hold.set()
    wait(controller)
    assert first.result == "done"
    assert not controller.poll("task(1)")["running"]


def test_cancel_reaches_the_job_and_is_no_error(controller: TabController) -> None:
    ready = threading.Event()

    def body(job: Job) -> None:
        job.progress.phase(Phase.WATCH, 100)
        for _ in range(60_000):
            job.progress.step()
            ready.set()
            threading.Event().wait(0.001)

    long = controller.jobs.start("merge", "long", body, job_id="task(9)", owner="tab")
    assert ready.wait(60)
    live = controller.poll("task(9)")
    assert (live["phase"], live["steps"], live["kind"]) == ("Watching the model", 100, "merge")
    assert controller.cancel()["cancelled"]
    wait(controller)
    assert isinstance(long.error, Cancelled)
    status = controller.finish()["status"]
    assert "nothing was written" in status
    assert "alert" not in status
    assert not controller.cancel()["cancelled"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate"), OUT_OF_MEMORY),
        (ValueError("<b>bad</b>"), "Something went wrong: ValueError: <b>bad</b>"),
        (InputError("x", "Plain words."), "Plain words."),
    ],
)
def test_whatever_ends_a_job_becomes_a_sentence(application: FakeApplication, error: Exception, words: str) -> None:
    def body(job: Job) -> None:
        raise error

    jobs = application.jobs
    fails = jobs.start("merge", "fails", body)
    assert fails.wait(60)
    assert fails.error is not None
    assert words in fails.error.message
    assert jobs.start("merge", "again", lambda job: None).wait(60)


@pytest.mark.parametrize("task", ["", "x", "task()", "task(../../etc)", "task(" + "a" * 99 + ")"])
def test_task_ids_are_the_pages_own(application: FakeApplication, task: str) -> None:
    with pytest.raises(InputError):
        application.jobs.start("merge", "x", lambda job: None, job_id=task)


def test_the_matrix_reads_only_new_files(folder: Path) -> None:
    pairs = Interferences()
    anna, ben, ink = ((name, next(folder.rglob(f"{name}.safetensors"))) for name in ("anna", "ben", "ink"))
    full = pairs.of([anna, ben, ink])
    assert [row[i] for i, row in enumerate(full.matrix)] == pytest.approx([1, 1, 1])
    write_lora(folder / "twin.safetensors", 1, 4)
    ink[1].rename(folder / "away")  # a subset needs no file
    (folder / "away").rename(ink[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib_loraclr.frontends.tab.facts.overlap", _fail)
        part = pairs.of([ink, anna])
    assert part.matrix[0][1] == full.matrix[2][0]
    html = interference_html(full)
    assert html.count("<text") >= 9
    assert "ink" in html
    assert "Choose" not in interference_html(pairs.of([anna]))
    problem = pairs.of([anna, ("xl", folder / "xl.safetensors")])
    assert "cannot work together" in problem.problem


def _fail(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("everything was known")


def outcome(folder: Path, *concepts: ConceptOutcome, warnings: tuple[FileWarning, ...] = ()) -> MergeResult:
    made = MergeOutcome(folder / "m.safetensors", "sum", "0", 2_000_000, {"total": 65.0}, 1.0, concepts, warnings)
    return MergeResult(made, [Choice("anna", trigger="<i>anna"), Choice("ben", trigger="<i>anna")])


def test_the_result_in_plain_words(tmp_path: Path) -> None:
    twice = (FileWarning("a", "Some words."), FileWarning("a", "Some words."))
    html = result_html(
        outcome(tmp_path, ConceptOutcome("anna", 0.81, "ben", 0.2), ConceptOutcome("ben", 0.4, "anna", 0.1),
                warnings=twice)
    )  # fmt: skip
    for text in ("81%", "40%", "2.0 MB", "65 s", "Less than half", "2 times", "&lt;lora:m:1&gt; &lt;i&gt;anna<"):
        assert text in html
    assert html.count("Some words.") == 1
    assert "arithmetic" in result_html(outcome(tmp_path, ConceptOutcome("anna")))


def test_a_preview_names_files_by_tag_and_fills_the_template(tmp_path: Path) -> None:
    concept = GridConcept("anna", tmp_path / "a b.safetensors", 0.5, 0.25, "anna", "woman", "character")
    style = GridConcept("ink", tmp_path / "i.safetensors", 1, 1, "ink", "style", "style")
    assert concept.tag == f"<lora:{tmp_path / 'a b.safetensors'}:0.25:0.5>"
    assert concept.prompt("a photo of {c}") == "a photo of anna woman"
    assert concept.prompt("a forest") == "a forest anna woman"
    assert style.prompt("a photo of {c}") == "a photo of a woman in ink style"
    for steps in (0, 1000):
        with pytest.raises(InputError):
            GridRequest([concept], tmp_path / "m", sampling=SamplingParams(steps))
    html = grid_html(Grid([("an<na", 'say "x"', ["data:a", "data:b", "data:c"])], 7))
    assert "an&lt;na" in html
    assert html.count("<img") == 3


def test_preview_before_any_merge_says_so(controller: TabController) -> None:
    reply = controller.preview("task(1)", {"preview.template": "a photo of {c}"})
    assert "Merge first" in reply["status"]


def test_the_estimate_is_there_before_the_merge_and_explains_errors(controller: TabController) -> None:
    assert "lct-fact" in costs(controller, TWO, values())
    assert "not an option" not in costs(controller, TWO, values())
    assert "A name may not" in costs(controller, TWO, values(name="a/b"))
    assert costs(controller, [], values()) == ""
    learning, solving = (
        costs(controller, TWO, values(method="contrastive", preset=p)) for p in ("distilled", "layerwise")
    )
    assert "and a training step" in learning
    assert "and a training step" not in solving

"""What the page asks for, and the answers: HTML by panel under `html`, and values for its script. No gradio here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib_loraclr.app.application import Application, CatalogueEntry
from lib_loraclr.app.cost import signature
from lib_loraclr.app.jobs import Job
from lib_loraclr.app.merge import KIND, FinishedMerge, start_merge
from lib_loraclr.capture.prompts import phrase
from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError
from lib_loraclr.frontends.bridge import Answer
from lib_loraclr.frontends.tab import choices as chosen
from lib_loraclr.frontends.tab import settings
from lib_loraclr.frontends.tab.estimate import estimate
from lib_loraclr.frontends.tab.facts import FileFacts, Interferences
from lib_loraclr.frontends.tab.preview import Grid, GridConcept, GridRequest, generate_grid
from lib_loraclr.frontends.tab.views import (
    Card,
    MergeResult,
    cards_html,
    error_html,
    estimate_html,
    grid_html,
    interference_html,
    list_html,
    model_html,
    note,
    notes,
    result_html,
    row_html,
    row_of,
)
from lib_loraclr.generation.generator import SamplingParams
from lib_loraclr.html import time_text
from lib_loraclr.merging.config import MergeConfig, config_of
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.model import Phase

MOST_DETAILS = 64
OWNER, PREVIEW = "tab", "preview"


class TabController:
    """One per tab. Everything a request names is looked up in the application's catalogue; paths never come in."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.files, self.interferences = FileFacts(), Interferences()
        self.jobs, self.pace = application.jobs, application.pace
        self.pace.read(application.cache_folder())

    @property
    def answers(self) -> Mapping[str, Answer]:
        """The questions of the page's script by name; each is an object with the values that are read here."""
        return {
            "open": lambda question: self.open(refresh=question.get("refresh") is True),
            "details": lambda question: self.details(question.get("names")),
            "cards": lambda question: self.cards(question.get("choices")),
            "matrix": lambda question: self.interference(question.get("choices")),
            "costs": lambda question: self.estimate(question.get("choices"), _values(question)),
            "merge": lambda question: self.merge(question.get("choices"), _task(question), _values(question)),
            "poll": lambda question: self.poll(_task(question)),
            "cancel": lambda question: self.cancel(_task(question)),
            "finish": lambda question: self.finish(str(question.get("name") or "")),
            "recipe": lambda question: self.load_recipe(str(question.get("name") or "")),
            "report": lambda question: self.report(),
            "preview": lambda question: self.preview(_task(question), _values(question)),
            "folder": lambda question: self.open_folder(),
        }

    # -- choosing ------------------------------------------------------------------------------------------------

    def open(self, refresh: bool = False) -> dict[str, Any]:
        """List and model line when the tab is seen for the first time, and on Refresh."""
        entries = self.application.catalogue.entries(refresh=refresh)
        job = self._active()
        listed = list_html(entries, self.application.catalogue.folder())
        return {
            "html": {"picker": listed, "model": model_html(self.application.model())},
            "names": [entry.name for entry in entries],
            "task": job.id if job else "",
            "done": job is None and bool(self.jobs.finished(KIND, PREVIEW)),
            "folder": self.application.open_folder is not None,
        }

    def details(self, names: Any) -> dict[str, Any]:
        """For the rows in view: their inside, and whether they can be chosen."""
        entries, model, rows = self._entries(), self.application.model(), dict[str, Any]()
        folder = self.application.catalogue.folder()
        for name in names[:MOST_DETAILS] if isinstance(names, list) else ():
            if isinstance(name, str) and name in entries:
                entry = entries[name]
                facts, picture = self.files.facts(entry.path), self.files.thumbnail(entry.thumbnail)
                row = row_of(entry, facts, picture, model, folder)
                rows[name] = {"html": row_html(row), "reason": row.reason, "recipe": row.merged_here}
        return {"rows": rows}

    def cards(self, selection: Any) -> dict[str, Any]:
        """Cards of the chosen LoRAs, and the choices completed."""
        try:
            cards, missing = self._cards(selection)
        except InputError as error:
            return {"html": {"cards": error_html(error)}, "choices": []}
        return {"html": {"cards": cards_html(cards, missing)}, "choices": [card.choice.as_json() for card in cards]}

    def interference(self, selection: Any) -> dict[str, Any]:
        """The matrix of the chosen files; nothing when a newer question made it pointless."""
        try:
            cards, _ = self._cards(selection)
            matrix = interference_html(self.interferences.of([(c.choice.name, c.entry.path) for c in cards]))
        except Cancelled:
            return {}
        except InputError as error:
            matrix = error_html(error)
        return {"html": {"matrix": matrix}}

    def load_recipe(self, name: str) -> dict[str, Any]:
        """Cards, settings by name and a note from a merged file of the catalogue."""
        entries = self._entries()
        recipe = self.files.facts(entries[name].path).recipe if name in entries else None
        if recipe is None:
            text = "This file holds no recipe; it was not merged by this extension."
            return {"status": note(text, "error", name)}
        items, missing = chosen.from_recipe(recipe, entries)
        values = settings.from_recipe(recipe)
        values["name"] = settings.next_name(self.application.catalogue.folder(), name)
        text = "The recipe is loaded: LoRAs, weights, triggers and settings are those of this file."
        gone = "The recipe names a LoRA that is not in the folder any more."
        status = notes([(text, "info", name), *((gone, "warning", file) for file in missing)])
        return {"choices": items, "values": values, "status": status}

    # -- merging -------------------------------------------------------------------------------------------------

    def estimate(self, selection: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        """Costs of the merge as it is set now, or what is still wrong with it."""
        return {"html": {"costs": self._costs(selection, values)}}

    def _costs(self, selection: Any, values: Mapping[str, Any]) -> str:
        try:
            cards, _ = self._cards(selection)
            if not cards:
                return ""
            plan = self._plan(cards, settings.named(values))
            loras = [self.files.layers(card.entry.path) for card in cards]
            model = self.application.model()
            cached = signature(plan, model) in self.pace.seen
            return estimate_html(estimate(plan, loras, model, self.pace, cached=cached))
        except InputError as error:
            return error_html(error)

    def merge(self, selection: Any, job_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Start a merge; the answer says whether it runs."""
        try:
            cards, _ = self._cards(selection)
            plan = self._plan(cards, settings.named(values))
            if plan.options.out.exists() and not plan.options.overwrite:
                message = "A LoRA of this name exists. Choose another name or allow replacing it."
                raise InputError("output-exists", message, file=plan.options.out.name, key="out")
            report = bool(settings.named(values)["report"]) and plan.samples
            choices = [card.choice for card in cards]
            start_merge(
                self.application, plan.options, owner=OWNER, job_id=job_id, most=1, report=report, about=choices
            )
        except LoraclrError as error:
            return {"started": False, "status": error_html(error)}
        return {"started": True, "task": job_id}

    def poll(self, job_id: str) -> dict[str, Any]:
        """Where the running job stands, for the bar and the live text."""
        job = self._active(job_id)
        if job is None:
            return {"running": False}
        state = job.snapshot()
        left = "" if state.seconds_left is None else time_text(state.seconds_left)
        return {
            "running": True, "task": job.id, "kind": job.kind, "state": state.state, "phase": state.phase,
            "step": state.step, "steps": state.steps, "fraction": round(state.fraction, 4), "left": left,
            "text": state.text,
        }  # fmt: skip

    def cancel(self, job_id: str = "") -> dict[str, Any]:
        """Ask the running job to stop."""
        job = self._active(job_id)
        return {"cancelled": job is not None and self.jobs.cancel(job.id)}

    def finish(self, name: str = "") -> dict[str, Any]:
        """Result and preview of what ran last, empty where there is nothing to show; the next name after `name`."""
        ended = self.jobs.finished(KIND, PREVIEW)
        error, result, grid = ended[-1].error if ended else None, self._result(), self._grid()
        status = error_html(error) if error is not None else ""
        html = {"result": result_html(result) if result else "", "grid": grid_html(grid) if grid else ""}
        about: dict[str, Any] = {"html": html, "status": status, "failed": bool(status)}
        if name:
            about["values"] = {"name": self.next_name(name)}
        if result is not None:
            concepts = [
                {"name": c.name, "trigger": c.trigger, "phrase": phrase(c.trigger, c.class_word)}
                for c in result.choices
            ]
            about["result"] = {
                "name": result.name, "prompt": result.prompt, "concepts": concepts, "report": bool(result.report_page),
                "measured": self._can_preview(), "again": self.application.cache_folder() is not None,
            }  # fmt: skip
        return about

    def next_name(self, name: str) -> str:
        """A name for the next merge: the same one unless the folder has it."""
        return settings.next_name(self.application.catalogue.folder(), name)

    def report(self) -> dict[str, Any]:
        """The full report as a page."""
        result = self._result()
        return {"page": result.report_page if result else ""}

    def preview(self, job_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Start painting the grid of the last merge with the settings "preview.template", "preview.seed" and so on."""
        template, seed, steps, cfg = (values.get(f"preview.{name}") for name in ("template", "seed", "steps", "cfg"))
        try:
            result = self._result()
            if result is None or not result.outcome.out.is_file():
                raise InputError("no-result", "Merge first; then its preview can be painted.")
            prompt = str(template or "").strip() or "a photo of {c}"
            sampling = SamplingParams(int(steps or 20), float(cfg or 7.0))
            concepts = self._grid_concepts(result)
            request = GridRequest(concepts, result.outcome.out, prompt, int(seed or 0), sampling)
            title = "Generating the preview"
            self.jobs.start(PREVIEW, title, lambda job: self._preview(request, job), job_id=job_id, owner=OWNER, most=1)
        except (TypeError, ValueError):
            return {"started": False, "status": note("Seed, steps and CFG scale must be numbers.", "error")}
        except LoraclrError as error:
            return {"started": False, "status": error_html(error)}
        return {"started": True, "task": job_id}

    def open_folder(self) -> dict[str, Any]:
        """Show the LoRA folder on the machine that the program runs on, where the program offers that."""
        show = self.application.open_folder
        if show is not None:
            show()
        return {}

    # -- inside --------------------------------------------------------------------------------------------------

    def _active(self, job_id: str = "") -> Job | None:
        """What runs or waits: the job that is asked for, else the tab's own, else any merge."""
        job = self.jobs.get(job_id)
        if job is not None and job.state != "done":
            return job
        every = [*self.jobs.active(KIND, PREVIEW, owner=OWNER), *self.jobs.active(KIND)]
        return every[0] if every else None

    def _result(self) -> MergeResult | None:
        """The last merge that went well, whoever started it."""
        merges = [job for job in self.jobs.finished(KIND) if isinstance(job.result, FinishedMerge)]
        if not merges:
            return None
        done: FinishedMerge = merges[-1].result
        choices = merges[-1].about
        if choices is None:
            names = {entry.path: entry.name for entry in self._entries().values()}
            choices = [chosen.of_job(one, names.get(one.file, one.file.stem)) for one in done.options.lora]
        return MergeResult(done.outcome, choices, done.report, done.report_page)

    def _grid(self) -> Grid | None:
        """The preview of that merge, once there is one."""
        ended = [job.result for job in self.jobs.finished(KIND, PREVIEW) if job.result is not None]
        return ended[-1] if ended and isinstance(ended[-1], Grid) else None

    def _preview(self, request: GridRequest, job: Job) -> Grid:
        job.progress.phase(Phase.LOAD, 1)
        host = self.application.open_host(None, "auto")
        job.progress.step()
        return generate_grid(request, host, job.progress)

    def _grid_concepts(self, result: MergeResult) -> list[GridConcept]:
        entries = self._entries()
        gone = [choice.name for choice in result.choices if choice.name not in entries]
        if gone:
            raise InputError("file-not-found", "A LoRA of this merge is not in the folder any more.", file=gone[0])
        concepts: list[GridConcept] = []
        for choice in result.choices:
            entry = choice.as_recipe(entries[choice.name])
            te_weight = entry.get("te_weight", entry["weight"])
            path = entries[choice.name].path
            words = choice.trigger, choice.class_word, choice.kind
            concepts.append(GridConcept(choice.name, path, entry["weight"], te_weight, *words))
        return concepts

    def _can_preview(self) -> bool:
        return self.application.model() is not None

    def _entries(self) -> dict[str, CatalogueEntry]:
        return {entry.name: entry for entry in self.application.catalogue.entries()}

    def _cards(self, selection: Any) -> tuple[list[Card], list[str]]:
        """Completed cards, and the names that the catalogue lacks."""
        entries, cards, missing = self._entries(), list[Card](), list[str]()
        for item in chosen.parse_choices(selection):
            entry = entries.get(item["name"])
            if entry is None:
                missing.append(item["name"])
                continue
            facts = self.files.facts(entry.path)
            picture = self.files.thumbnail(entry.thumbnail)
            cards.append(Card(chosen.complete(item, entry, facts), entry, facts, picture))
        return cards, missing

    def _plan(self, cards: Sequence[Card], values: Mapping[str, Any]) -> MergeConfig:
        model = self.application.model()
        options: MergeOptions = settings.options_of(
            values,
            [card.choice.as_recipe(card.entry) for card in cards],
            self.application.catalogue.folder(),
            cache=self.application.cache_folder(),
            device=str(model.device) if model else "auto",
        )
        return config_of(options)


def _values(question: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that a question carries, by name."""
    values = question.get("values")
    return values if isinstance(values, Mapping) else {}


def _task(question: Mapping[str, Any]) -> str:
    return str(question.get("task") or "")

"""The routes. Plain functions: FastAPI runs them in threads, and a merge never blocks the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from lib_loraclr.app.application import Application
from lib_loraclr.app.catalogue import entry_of
from lib_loraclr.app.jobs import Job
from lib_loraclr.app.merge import FinishedMerge, start_merge
from lib_loraclr.core.errors import InputError, LoraclrError
from lib_loraclr.formats import recipe_of
from lib_loraclr.formats.inspect import inspect
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.frontends.api.access import Names, body_of, guard
from lib_loraclr.frontends.api.requests import merge_options, names_of, schema
from lib_loraclr.merging.inputs import KINDS, overlap
from lib_loraclr.model import SilentProgress
from lib_loraclr.version import __version__

PREFIX = "/loraclr/v1"
OWNER = "api"
WAITING = 16  # merges that may wait or run at a time


def add_routes(app: FastAPI, application: Application, credentials: Mapping[str, str] | None) -> None:
    """Put the API on a FastAPI app; every route asks for `credentials` (user -> password) unless they are None."""
    router = APIRouter(prefix=PREFIX, dependencies=[Depends(guard(credentials))], tags=["LoRACLR"])
    routes = Routes(application)
    router.add_api_route("/version", routes.version, methods=["GET"])
    router.add_api_route("/schema", schema, methods=["GET"])
    router.add_api_route("/loras", routes.loras, methods=["GET"])
    router.add_api_route("/loras/{name:path}", routes.lora, methods=["GET"])
    router.add_api_route("/recipes/{name:path}", routes.recipe, methods=["GET"])
    router.add_api_route("/overlap", routes.overlap, methods=["POST"])
    router.add_api_route("/merge", routes.merge, methods=["POST"], status_code=202)
    router.add_api_route("/tasks/{task}", routes.task, methods=["GET"])
    router.add_api_route("/tasks/{task}/cancel", routes.cancel, methods=["POST"])
    app.include_router(router)


def _answering(route: Callable[..., Any]) -> Callable[..., Any]:
    """Paths go out of the answer, and our errors become HTTP's."""

    @wraps(route)
    def answer(self: Routes, *given: Any, **named: Any) -> Any:
        names = Names(self.application.catalogue.folder())
        try:
            return names.clean(route(self, *given, **named))
        except LoraclrError as error:
            raise names.http(error) from error

    return answer


class Routes:
    """The functions behind the routes of one application."""

    def __init__(self, application: Application) -> None:
        self.application = application

    @_answering
    def version(self) -> dict[str, Any]:
        """Versions, and the checkpoint that a merge would use now."""
        model = self.application.model()
        known = None if model is None else {"name": model.name, "family": model.family, "sha256": model.sha256 or None}
        return {"version": __version__, "host": self.application.name, "model": known}

    @_answering
    def loras(self, refresh: bool = False) -> dict[str, Any]:
        """Names of the LoRAs with what the user's metadata says; `refresh` reads the folders again."""
        entries = self.application.catalogue.entries(refresh=refresh)
        return {
            "loras": [
                {
                    "name": entry.name,
                    "activation_text": str(entry.user_metadata.get("activation text", "")),
                    "preferred_weight": entry.user_metadata.get("preferred weight"),
                }
                for entry in entries
            ]
        }

    @_answering
    def lora(self, name: str) -> dict[str, Any]:
        """What one file is; a file that cannot be used has `ok` false and an error."""
        entry = entry_of(self.application.catalogue, name)
        return {**inspect(entry.path).as_dict(), "file": None, "name": entry.name}

    @_answering
    def recipe(self, name: str) -> dict[str, Any]:
        """The recipe that a merged file carries."""
        entry = entry_of(self.application.catalogue, name)
        recipe = recipe_of(SafetensorsFile.open(entry.path).metadata)
        if recipe is None:
            raise InputError("no-recipe", "The file holds no recipe; it was not merged by this program.")
        return {"name": entry.name, "recipe": recipe}

    @_answering
    def overlap(self, body: dict[str, Any] = Depends(body_of)) -> dict[str, Any]:  # noqa: B008
        """Interference of every pair; the model is only asked for types that are defined by it."""
        kind = body.get("kind", "cosine")
        if kind not in KINDS:
            raise InputError("bad-option", f"kind must be one of {', '.join(KINDS)}.", key="kind")
        files = [entry.path for entry in names_of(self.application.catalogue, body)]
        try:
            found = overlap(files, kind=kind, progress=SilentProgress())
        except InputError as error:
            if error.code != "needs-checkpoint":
                raise
            host = self.application.open_host
            found = self.application.jobs.run(
                "overlap",
                "Comparing LoRAs",
                lambda job: overlap(files, kind=kind, open_host=lambda: host(None, "auto"), progress=job.progress),
                owner=OWNER,
            )
        return found.as_dict()

    @_answering
    def merge(self, body: dict[str, Any] = Depends(body_of)) -> dict[str, Any]:  # noqa: B008
        """Queue a merge; everything that can be wrong with the request is said now."""
        options = merge_options(self.application.catalogue, body, self.application.cache_folder())
        job = start_merge(self.application, options, owner=OWNER, job_id=body.get("task"), most=WAITING)
        return {"task": job.id}

    @_answering
    def task(self, task: str) -> dict[str, Any]:
        """Where a job stands; when it is done also `result` (of a merge) or `error`."""
        job = self._job(task)
        answer = {"task": job.id, **asdict(job.snapshot())}
        if job.error is not None and answer["state"] == "done":
            return {**answer, "error": job.error.as_dict()}
        merged = job.result if answer["state"] == "done" else None
        return {**answer, "result": merged.outcome.as_json()} if isinstance(merged, FinishedMerge) else answer

    @_answering
    def cancel(self, task: str) -> dict[str, Any]:
        """Ask a job to stop; it ends at its next step with the error "cancelled"."""
        return {"cancelled": self.application.jobs.cancel(self._job(task).id)}

    def _job(self, task: str) -> Job:
        job = self.application.jobs.get(task)
        if job is None:
            raise InputError("unknown-task", "There is no such task; finished ones are forgotten after a while.")
        return job

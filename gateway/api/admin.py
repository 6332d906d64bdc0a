"""/admin/v1: which student serves, and with which settings. It changes; it answers no text.

The shell lets in whoever may: see `auth` and `origin`. Work is done in `succession` and `reload`;
this room reads requests, and shows what became of them.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request

from gateway.api.limits import read_body
from gateway.api.problems import UnsupportedMedia
from gateway.api.receipt import PATIENCE
from gateway.api.schemas import problems
from gateway.assembly import Gateway
from gateway.errors import Invalid, Malformed, RequestError, TooLarge
from gateway.reload import reload
from gateway.settings import Settings
from gateway.students.vacancy import NO_STUDENT
from gateway.succession import Change, Succession

PREFIX = "/admin/"

_BODY_LIMIT = 4096  # bytes of a JSON body here: one name and one sentence
_WHY = 500  # characters
_UPLOAD_S = 600.0  # seconds for an archive to arrive: 100 MB over a slow line
_ARCHIVES = ("application/x-tar", "application/gzip", "application/zip")
_NOBODY = "(no key)"  # who changes something where no keys are configured
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")


_Asked = TypeVar("_Asked", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BundleReply(_Part):
    """A bundle of a task. `role`: serving, previous or candidate."""

    name: str
    role: str


class SuccessionReply(_Part):
    """The bundles of one task, in the order in which they came."""

    task: str
    configured: str = Field(description="the bundle that the settings name")
    serving: str
    previous: str | None = Field(description="what a rollback lets serve again")
    bundles: list[BundleReply]


class StudentsReply(_Part):
    """The bundles of every task."""

    tasks: list[SuccessionReply]


class AddedReply(_Part):
    """A bundle that is now a candidate, or was one already."""

    task: str
    bundle: str
    size: int = Field(description="bytes of all files")


class ReasonRequest(_Part):
    """Why something is changed, for the log of changes."""

    why: str = Field(default="", max_length=_WHY, pattern=r"^[^\x00-\x1f\x7f]*$")


class SwapRequest(ReasonRequest):
    """Which bundle is to serve."""

    bundle: str = Field(min_length=1, max_length=200)


class ChangeReply(_Part):
    """Who serves now. `changed` is false where the bundle served already."""

    task: str
    serving: str
    previous: str | None
    changed: bool


class ReloadReply(_Part):
    """What became of each key of the settings, dotted."""

    generation: int
    applied: list[str]
    unchanged: list[str]
    restart: list[str] = Field(description="differ in the file, and hold after a restart only")


class ConfigReply(_Part):
    """The settings that hold, without secrets."""

    generation: int
    settings: dict[str, Any]


def router(gateway: Gateway) -> APIRouter:
    """The routes of administration."""
    routes = APIRouter(prefix="/admin/v1", responses=problems(401, 403, 500))

    @routes.get("/students")
    async def students() -> StudentsReply:
        """The bundles of every task, and who serves."""
        found = gateway.successions.values()
        return StudentsReply(tasks=[await asyncio.to_thread(_shown, each) for each in found])

    @routes.post(
        "/students",
        status_code=201,
        responses=problems(400, 404, 408, 413, 415, 422),
        openapi_extra=_documented_archive(),
    )
    async def add(request: Request, task: str | None = None) -> AddedReply:
        """Take in a bundle, as a tar (plain or gzip) or zip archive of its folder.

        It is unpacked aside, verified, and rehearsed in a process of its own before it is a
        candidate. `task` may be left out where there is only one.
        """
        succession = gateway.successions[gateway.cascade(task).task]
        with succession.registry.staging() as staging:
            archive = staging / "archive"
            await _receive(request, archive, most=succession.registry.max_bytes)
            bundle = await succession.add(archive, by=_who(request))
        return AddedReply(task=succession.task, bundle=bundle.name, size=bundle.size)

    @routes.post(
        "/students/{task}/swap",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(SwapRequest),
    )
    async def swap(request: Request, task: str) -> ChangeReply:
        """Let a bundle serve. The one that serves now stays loaded, for a rollback."""
        wanted = await _read(request, SwapRequest)
        succession = gateway.successions[gateway.cascade(task).task]
        return _changed(await succession.swap(wanted.bundle, by=_who(request), why=wanted.why))

    @routes.post(
        "/students/{task}/rollback",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(ReasonRequest, required=False),
    )
    async def rollback(request: Request, task: str) -> ChangeReply:
        """Let the previous bundle serve again."""
        why = (await _read(request, ReasonRequest)).why
        succession = gateway.successions[gateway.cascade(task).task]
        return _changed(await succession.roll_back(by=_who(request), why=why))

    @routes.post(
        "/reload",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(ReasonRequest, required=False),
    )
    async def reload_settings(request: Request) -> ReloadReply:
        """Read the settings file again, and let hold what needs no restart."""
        why = (await _read(request, ReasonRequest)).why
        done = await reload(gateway, by=_who(request), why=why)
        return ReloadReply(
            generation=done.generation,
            applied=list(done.applied),
            unchanged=list(done.unchanged),
            restart=list(done.restart),
        )

    @routes.get("/config")
    async def config() -> ConfigReply:
        """The settings that hold."""
        return ConfigReply(
            generation=gateway.generation, settings=without_secrets(gateway.settings)
        )

    return routes


def without_secrets(settings: Settings) -> dict[str, Any]:
    """Settings ready for JSON: no hash of a key, no password in a URL."""
    content = settings.model_dump(mode="json", exclude={"keys": {"__all__": {"sha256"}}})
    masked: dict[str, Any] = _masked(content)
    return masked


def _masked(content: Any) -> Any:
    match content:
        case dict():
            return {name: _masked(value) for name, value in content.items()}
        case list():
            return [_masked(value) for value in content]
        case str():
            return _PASSWORD.sub("***", content)
        case _:
            return content


def _shown(succession: Succession) -> SuccessionReply:
    roles = succession.roles
    held = {roles.serving: "serving", roles.previous: "previous"}
    names = succession.registry.names()
    if roles.serving not in names:  # what the settings name, served from its own folder
        names = (roles.serving, *names)
    if roles.previous == NO_STUDENT:  # it has no folder
        names = (roles.previous, *names)
    return SuccessionReply(
        task=succession.task,
        configured=roles.configured,
        serving=roles.serving,
        previous=roles.previous,
        bundles=[BundleReply(name=name, role=held.get(name, "candidate")) for name in names],
    )


def _changed(change: Change) -> ChangeReply:
    return ChangeReply(
        task=change.task,
        serving=change.serving,
        previous=change.previous,
        changed=change.changed,
    )


async def _read(request: Request, model: type[_Asked]) -> _Asked:
    """The body; none at all, of whatever type, says nothing. Raises Invalid, or as `read_body`."""
    headers, body = request.headers, b""
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        body = await read_body(request.scope, request.receive, limit=_BODY_LIMIT)
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the body"
        needed = [name for name, each in model.model_fields.items() if each.is_required()]
        keys = ", ".join(f'"{name}": "..."' for name in [*needed, "why"])
        raise Invalid(f"{where}: {first['msg']}", mend=f"send {{{keys}}}") from error


def _who(request: Request) -> str:
    return request.scope["state"].get("key") or _NOBODY


async def _receive(request: Request, target: Path, *, most: int) -> None:
    """Write the body to a file, piece by piece. Raises UnsupportedMedia, TooLarge or Malformed."""
    headers = request.headers
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in _ARCHIVES or headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMedia(
            f"the body is of type {kind[:60]!a}", mend=f"send one of: {', '.join(_ARCHIVES)}"
        )
    request.scope["state"][PATIENCE] = _UPLOAD_S
    written = int(headers.get("content-length", 0))  # the server checked the digits
    try:
        with target.open("xb") as file:
            if written > most:
                raise _too_large(most)
            written = 0
            async for piece in request.stream():
                written += len(piece)
                if written > most:
                    raise _too_large(most)
                await asyncio.to_thread(file.write, piece)
    except ClientDisconnect as error:
        refused = request.scope["state"].get("refused")
        if isinstance(refused, RequestError):  # the connection did, and says why
            raise refused from error
        raise Malformed("the client left before its body was complete") from error


def _too_large(most: int) -> TooLarge:
    return TooLarge(
        f"the archive is above {most} bytes",
        mend="send a smaller bundle, or raise registry.max_bytes",
    )


def _documented_body(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": required, "content": content}}


def _documented_archive() -> dict[str, Any]:
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": dict.fromkeys(_ARCHIVES, schema)}}

"""/admin/v1: which student serves, and with which settings. It changes; it answers no text.

The shell lets in whoever may: see `auth` and `origin`. Work is done in `succession` and `reload`;
this room reads requests, and shows what became of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import ClientDisconnect, Request

from gateway.api import shadow
from gateway.api.limits import read_body
from gateway.api.problems import UnsupportedMedia
from gateway.api.receipt import PATIENCE
from gateway.api.schemas import problems
from gateway.assembly import Gateway
from gateway.errors import Invalid, Malformed, RequestError, TooLarge, UnderstudyError
from gateway.reload import reload
from gateway.settings import Settings, TaskSettings
from gateway.students.registry import Registry, Roles
from gateway.students.vacancy import NO_STUDENT
from gateway.succession.change import Change
from gateway.succession.line import Succession
from gateway.succession.rollout import NOBODY, Rollout

PREFIX = "/admin/"

_BODY_LIMIT = 4096  # bytes of a JSON body here: one name and one sentence
_WHY = 500  # characters
_UPLOAD_S = 600.0  # seconds for an archive to arrive: 100 MB over a slow line
_ARCHIVES = ("application/x-tar", "application/gzip", "application/zip")
_IDLE = "idle"  # the role of what lies in the registry and is not compared
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")


_Asked = TypeVar("_Asked", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BundleReply(_Part):
    """A bundle of a task. `role`: serving, previous, canary, candidate or idle."""

    name: str
    role: str


class CanaryReply(_Part):
    """The canary of a task. `step` is counted from 1; times are in seconds since the epoch."""

    bundle: str
    step: int
    steps: int
    share: float = Field(description="of all keys")
    since: float = Field(description="when this step began")
    began: float
    by: str


class ProposalReply(_Part):
    """A promotion that waits for a second person."""

    bundle: str
    by: str
    why: str
    override: bool
    at: float = Field(description="seconds since the epoch")


class FrozenReply(_Part):
    """Why nobody is promoted. `student`: the one that was sent back, if one was."""

    why: str
    at: float = Field(description="seconds since the epoch")
    student: str | None


class RolesReply(_Part):
    """Who has which role in a task, and who is on the way."""

    task: str
    serving: str
    previous: str | None = Field(description="what a rollback lets serve again")
    canary: CanaryReply | None
    proposal: ProposalReply | None
    frozen: FrozenReply | None


class SuccessionReply(RolesReply):
    """The bundles of one task, in the order in which they came."""

    configured: str = Field(description="the bundle that the settings name")
    bundles: list[BundleReply]


class StudentsReply(_Part):
    """The bundles of every task."""

    tasks: list[SuccessionReply]


class AddedReply(_Part):
    """A bundle that is now in the registry, or was there already."""

    task: str
    bundle: str
    size: int = Field(description="bytes of all files")
    compared: bool = Field(description="it is a candidate: compared with live traffic")
    note: str = Field(description="why it is not; empty: it is")


class ReasonRequest(_Part):
    """Why something is changed, for the log of changes."""

    why: str = Field(default="", max_length=_WHY, pattern=r"^[^\x00-\x1f\x7f]*$")


class SwapRequest(ReasonRequest):
    """Which bundle is to serve."""

    bundle: str = Field(min_length=1, max_length=200)


class PromoteRequest(SwapRequest):
    """Which bundle is to be promoted."""

    override: bool = Field(default=False, description="though it is not proved")


class RollbackRequest(ReasonRequest):
    """What is to go; nothing said: the canary, or where there is none, the bundle that serves."""

    leaving: str | None = Field(
        default=None, max_length=200, description="nothing changes where that bundle has gone"
    )
    to_teacher: bool = Field(
        default=False, description="the canary goes, and the bundle that serves: no student answers"
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.to_teacher and self.leaving is not None:
            raise ValueError("to_teacher lets every student go: leave out leaving")
        return self


class ChangeReply(RolesReply):
    """Who has which role now. `changed` is false where it was so already."""

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
    routes.include_router(_promotion(gateway))

    @routes.get("/students")
    async def students() -> StudentsReply:
        """The bundles of every task, and who serves."""
        found = gateway.successions.values()
        tried = {task: each.names for task, each in gateway.candidacies.items()}
        return StudentsReply(
            tasks=[await asyncio.to_thread(_shown, each, tried[each.task]) for each in found]
        )

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
        async with _staging(succession.registry) as staging:
            archive = staging / "archive"
            await _receive(request, archive, most=succession.registry.max_bytes)
            bundle = await succession.add(archive, by=_who(request))
        try:
            note = await gateway.candidacies[succession.task].add(bundle.name)
        except UnderstudyError as error:  # it is in the registry, and may be swapped to
            note = error.message
        return AddedReply(
            task=succession.task,
            bundle=bundle.name,
            size=bundle.size,
            compared=not note,
            note=note,
        )

    @routes.post(
        "/students/{task}/swap",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(SwapRequest),
    )
    async def swap(request: Request, task: str) -> ChangeReply:
        """Let a bundle serve. The one that serves now stays loaded, for a rollback."""
        wanted = await _read(request, SwapRequest)
        succession = gateway.successions[gateway.cascade(task).task]
        by = _who(request)
        return _changed(await succession.swap(wanted.bundle, by=by, why=wanted.why), gateway)

    @routes.post(
        "/students/{task}/rollback",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(RollbackRequest, required=False),
    )
    async def rollback(request: Request, task: str) -> ChangeReply:
        """End the canary, or let the previous bundle serve again, or with `to_teacher` none.

        Nobody is promoted after it.
        """
        asked = await _read(request, RollbackRequest)
        succession, by = gateway.successions[gateway.cascade(task).task], _who(request)
        if asked.to_teacher:
            return _changed(await succession.clear(by=by, why=asked.why), gateway)
        change = await succession.roll_back(by=by, why=asked.why, leaving=asked.leaving)
        return _changed(change, gateway)

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

    routes.include_router(shadow.router(gateway, _who))
    return routes


def _promotion(gateway: Gateway) -> APIRouter:
    """The routes by which a candidate comes to serve step by step, and what stops it."""
    routes = APIRouter()

    @routes.post(
        "/students/{task}/promote",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(PromoteRequest),
    )
    async def promote(request: Request, task: str) -> ChangeReply:
        """Let a candidate that is proved answer a share of the requests, step by step."""
        asked = await _read(request, PromoteRequest)
        return _changed(
            await _rollout(gateway, task).promote(
                asked.bundle, by=_who(request), why=asked.why, override=asked.override
            ),
            gateway,
        )

    @routes.post(
        "/students/{task}/approve",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(SwapRequest),
    )
    async def approve(request: Request, task: str) -> ChangeReply:
        """Approve, as the second person, a promotion that somebody else has proposed."""
        asked = await _read(request, SwapRequest)
        rollout, by = _rollout(gateway, task), _who(request)
        return _changed(await rollout.approve(asked.bundle, by=by, why=asked.why), gateway)

    @routes.post(
        "/students/{task}/freeze",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(ReasonRequest),
    )
    async def freeze(request: Request, task: str) -> ChangeReply:
        """Let nobody be promoted, and no canary take a further step."""
        why = (await _read(request, ReasonRequest)).why
        return _changed(await _rollout(gateway, task).freeze(by=_who(request), why=why), gateway)

    @routes.post(
        "/students/{task}/unfreeze",
        responses=problems(400, 404, 409, 413, 415, 422, 503),
        openapi_extra=_documented_body(ReasonRequest),
    )
    async def unfreeze(request: Request, task: str) -> ChangeReply:
        """Let candidates be promoted again."""
        why = (await _read(request, ReasonRequest)).why
        return _changed(await _rollout(gateway, task).unfreeze(by=_who(request), why=why), gateway)

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


def _rollout(gateway: Gateway, task: str) -> Rollout:
    return gateway.rollouts[gateway.cascade(task).task]


def _shown(succession: Succession, tried: Collection[str]) -> SuccessionReply:
    roles = succession.roles
    held = dict.fromkeys(tried, "candidate")
    held |= {roles.serving: "serving", roles.previous or "": "previous"}
    if roles.canary is not None:
        held[roles.canary.bundle] = "canary"
    names = succession.registry.names()
    if roles.serving not in names:  # what the settings name, served from its own folder
        names = (roles.serving, *names)
    if roles.previous == NO_STUDENT:  # it has no folder
        names = (roles.previous, *names)
    return SuccessionReply(
        configured=roles.configured,
        bundles=[BundleReply(name=name, role=held.get(name, _IDLE)) for name in names],
        **_roles(succession.task, roles, succession.settings),
    )


def _changed(change: Change, gateway: Gateway) -> ChangeReply:
    settings = gateway.settings.tasks[change.task]
    return ChangeReply(changed=change.changed, **_roles(change.task, change.roles, settings))


def _roles(task: str, roles: Roles, settings: TaskSettings) -> dict[str, Any]:
    """The keys of a RolesReply."""
    canary, ladder = roles.canary, settings.promotion.ladder()
    return {
        "task": task,
        "serving": roles.serving,
        "previous": roles.previous,
        "canary": canary
        and CanaryReply(
            bundle=canary.bundle,
            step=min(canary.step + 1, len(ladder)),
            steps=len(ladder),
            share=ladder.step(canary.step).share,
            since=canary.since,
            began=canary.began,
            by=canary.by,
        ),
        "proposal": roles.proposal and ProposalReply(**roles.proposal.model_dump()),
        "frozen": roles.frozen and FrozenReply(**roles.frozen.model_dump()),
    }


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
    return request.scope["state"].get("key") or NOBODY


@asynccontextmanager
async def _staging(registry: Registry) -> AsyncIterator[Path]:
    """As `Registry.staging`, whose work on a large archive is not for the event loop."""
    opened = ExitStack()
    folder = await asyncio.to_thread(opened.enter_context, registry.staging())

    async def leave(*error: Any) -> bool | None:
        return await asyncio.to_thread(opened.__exit__, *error)

    async with AsyncExitStack() as stack:
        stack.push_async_exit(leave)
        yield folder


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

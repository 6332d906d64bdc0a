"""/v2: the Open Inference Protocol, version 2, over REST. A model is a task, a version a bundle.

With the extensions for binary tensor data and for the model repository. One input tensor of texts
comes in; out goes a tensor for each head, with score, confidence, route and reason. What nobody
answered is no error here: its route is "abstain", its labels are empty.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Query
from starlette.responses import Response
from starlette.types import Receive, Scope

from gateway import __version__
from gateway.api import asked, ops, shapes, tensors
from gateway.api.dialect import (
    JSON,
    Access,
    Body,
    Dialect,
    Endpoint,
    Headers,
    Shown,
    json_response,
    told,
)
from gateway.api.limits import read_body
from gateway.api.problems import UnsupportedMedia, problem_of
from gateway.api.tensors import Column
from gateway.assembly import Gateway
from gateway.contract.bundle import folder_name
from gateway.errors import Conflict, Invalid, Malformed, ServingError, UnknownTask
from gateway.routing.cascade import Cascade
from gateway.settings import ServerSettings
from gateway.types import Answer, Instance, Terms

_HEADER_LENGTH = b"inference-header-content-length"
_OCTETS = b"application/octet-stream"
_KINDS = frozenset({JSON, _OCTETS})  # a client may name the second even for a body of JSON alone
_WANTED = '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["..."]}]}'
_LOAD = '{"parameters": {"bundle": "NAME"}}'
_MICROSECONDS = 1000  # in a millisecond
_STATEFUL = ("sequence_id", "sequence_start", "sequence_end")
_READ = frozenset({"route", "priority", "deadline_ms", "timeout", "binary_data_output", *_STATEFUL})
_RESERVED = "triton_"  # what a parameter is called that a server should know
_STREAMED = "triton_enable_empty_final_response"  # one that clients send, of replies in parts
_SCALARS = frozenset({str, int, float, bool, type(None)})
_LONGEST = 3_600_000_000  # microseconds: an hour, as of `deadline_ms`
_REFUSED = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
_CHANGES = (400, 401, 403, 404, 408, 409, 413, 415, 500, 503)


@dataclass(frozen=True, slots=True)
class Inference:
    """What a body asks. `outputs`: the wanted tensors, and whether each is to be binary.

    None: all of them, binary where `binary` says so.
    """

    id: str | None
    instances: Sequence[Instance]
    terms: Terms
    outputs: Mapping[str, bool] | None
    binary: bool


def dialect(gateway: Gateway) -> Dialect:
    """The protocol on this gateway."""
    routes = _Routes(gateway)
    infer = Shown("Answer a tensor of texts", _infer, shapes.OipReply, _REFUSED, _BINARY)
    infer_version = Shown(
        "The same, of one version", _infer_version, shapes.OipReply, _REFUSED, _BINARY
    )
    model = "/v2/models/{model}"
    version = model + "/versions/{version}"
    return Dialect(
        name="oip",
        owns=re.compile(r"/v2(/|$)"),
        refuse=refuse,
        error=shapes.OipError,
        endpoints=(
            _get("/v2", routes.server, "The server", _server, shapes.OipServer),
            _probe("/v2/health/live", routes.live, _live, shapes.OipLive),
            _probe("/v2/health/ready", routes.ready, _ready, shapes.OipReady),
            _get(model, routes.model, "A model", _model, shapes.OipModel),
            _get(version, routes.model, "A version", _model_version, shapes.OipModel),
            _get(f"{model}/ready", routes.model_ready, "Ready?", _is_ready, shapes.OipModelReady),
            _get(
                f"{version}/ready",
                routes.model_ready,
                "Is a version ready?",
                _is_version_ready,
                shapes.OipModelReady,
            ),
            Endpoint("POST", f"{model}/infer", routes.infer, infer, gateway.metrics),
            Endpoint("POST", f"{version}/infer", routes.infer, infer_version, gateway.metrics),
            Endpoint(
                "POST",
                "/v2/repository/index",
                routes.index,
                Shown("The models", _index, list[shapes.OipIndexEntry], _REFUSED),
            ),
        ),
    )


def repository(gateway: Gateway) -> Dialect:
    """What changes which version serves; it belongs where administration is."""
    routes = _Routes(gateway)
    model = "/v2/repository/models/{model}"
    load = Shown("Let a version serve", _load, None, _CHANGES)
    unload = Shown("Refused", _unload, None, _CHANGES)
    return Dialect(
        name="oip_repository",
        owns=re.compile(r"/v2/repository/models/"),
        refuse=refuse,
        error=shapes.OipError,
        endpoints=(
            Endpoint("POST", f"{model}/load", routes.load, load, access=Access.ADMIN),
            Endpoint("POST", f"{model}/unload", routes.unload, unload, access=Access.ADMIN),
        ),
    )


def refuse(error: Exception) -> Response:
    """An error as the protocol says it; a wrong shape is 400 there."""
    problem = problem_of(error)
    status = 400 if problem.status == 422 else problem.status
    return json_response({"error": told(problem)}, status, problem.headers)


def parse(body: bytes, header: bytes | None, limits: ServerSettings, started: float) -> Inference:
    """A body -> what it asks. `header` says how long its JSON is, where binary data follows.

    Raises Malformed, Invalid or TooLarge.
    """
    length = len(body) if header is None else _length(header, len(body))
    content = asked.content(body[:length], _WANTED)
    inputs = content.get("inputs")
    if type(inputs) is not list or len(inputs) != 1:
        raise Invalid("inputs: not a list with one tensor", mend=f"send {_WANTED}")
    parameters = _parameters(content, "")
    _check_own(parameters)
    binary = asked.flag(parameters, "binary_data_output", "parameters.")
    return Inference(
        id=asked.name(content, "id"),
        instances=tensors.texts(inputs[0], None if header is None else body[length:], limits),
        terms=_terms(parameters, started),
        outputs=_outputs(content.get("outputs"), binary=binary),
        binary=binary,
    )


class _Routes:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def server(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002  no body
        return Body.of(
            {
                "name": "understudy",
                "version": __version__,
                "extensions": ["binary_tensor_data", "model_repository", "parameters"],
            }
        )

    async def live(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002
        ops.check_alive(self._gateway)
        return Body.of({"live": True})

    async def ready(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002
        ops.check_ready(self._gateway)
        return Body.of({"ready": True})

    async def model(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002
        cascade = self._cascade(scope)
        outputs = tensors.columns(cascade.heads).values()
        return Body.of(
            {
                "name": cascade.task,
                "versions": [cascade.rung.name],
                "platform": "onnxruntime_onnx",
                "inputs": [{"name": "text", "datatype": tensors.BYTES, "shape": [-1]}],
                "outputs": [
                    {"name": each.name, "datatype": each.datatype, "shape": [-1]}
                    for each in outputs
                ],
            }
        )

    async def model_ready(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002
        cascade = self._cascade(scope)
        ops.check_ready(self._gateway)
        return Body.of({"name": cascade.task, "ready": True})

    async def infer(self, scope: Scope, receive: Receive) -> Body:
        started = time.perf_counter()
        body, header = await self._read(scope, receive)
        question = parse(body, header, self._gateway.settings.server, started)
        cascade = self._cascade(scope)
        serving = cascade.rung.bundle
        wanted = _wanted(tensors.columns(cascade.heads), question)
        reply = await asked.reply(self._gateway, cascade, question.instances, question.terms, scope)
        said = reply.answers[0].student  # another may serve since we looked
        version = (
            folder_name(serving.manifest.task.name, said.bundle)
            if serving and said
            else cascade.rung.name
        )
        about = {"model_name": cascade.task, "model_version": version}
        if question.id is not None:
            about["id"] = question.id
        return _outgoing(about, wanted, reply.answers, asked.headers(reply, started))

    async def index(self, scope: Scope, receive: Receive) -> Body:
        body, _ = await self._read(scope, receive)
        content = asked.content(body, '{"ready": true}') if body else {}
        reason = self._unready()
        if asked.flag(content, "ready") and reason:
            return Body.of([])
        return Body.of(
            [
                {
                    "name": name,
                    "version": cascade.rung.name,
                    "state": "UNAVAILABLE" if reason else "READY",
                    "reason": reason,
                }
                for name, cascade in self._gateway.tasks.items()
            ]
        )

    async def load(self, scope: Scope, receive: Receive) -> Body:
        body, _ = await self._read(scope, receive)
        parameters = _parameters(asked.content(body, _LOAD) if body else {}, "")
        if unknown := sorted(parameters.keys() - {"bundle"}):
            raise Invalid(
                f"parameters.{unknown[0][:60]}: a bundle is whole, and nothing is laid over it",
                mend=f"send {_LOAD}",
            )
        wanted = asked.name(parameters, "bundle", "parameters.") or asked.query(scope).get("bundle")
        cascade = self._cascade(scope)
        if wanted is not None:
            by = scope["state"].get("key") or "(no key)"
            await self._gateway.successions[cascade.task].swap(wanted, by=by)
        return Body(b"", kind=b"")

    async def unload(self, scope: Scope, receive: Receive) -> Body:  # noqa: ARG002
        cascade = self._cascade(scope)
        raise Conflict(
            f"the task {cascade.task} is served, and without its student its teacher alone would "
            "answer it",
            mend="load another bundle in its place, or `no_student`, or take the task out of the "
            "settings",
        )

    def _unready(self) -> str:
        """Why new requests should not be sent here; empty where they may."""
        try:
            ops.check_ready(self._gateway)
        except ServingError as error:
            return error.message
        return ""

    def _cascade(self, scope: Scope) -> Cascade:
        """The task that the path names. Raises UnknownTask, for a version that does not serve too.

        A version is a bundle's name.
        """
        steps = scope["path_params"]
        cascade = self._gateway.cascade(steps["model"])
        version = steps.get("version")
        serving = cascade.rung.name
        if version not in (None, serving):
            raise UnknownTask(
                f"the version {version[:100]!r} of {cascade.task} does not serve",
                mend=f"name {serving}, or none",
            )
        return cascade

    async def _read(self, scope: Scope, receive: Receive) -> tuple[bytes, bytes | None]:
        """The body, and what the header says of the length of its JSON."""
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", JSON).split(b";")[0].strip().lower()
        if kind not in _KINDS:
            raise UnsupportedMedia(
                f"the body is of type {kind[:60].decode('latin-1')!a}",
                mend="send content-type: application/json, or application/octet-stream",
            )
        plain = [pair for pair in scope["headers"] if pair[0] != b"content-type"]
        body = await read_body(
            {**scope, "headers": plain}, receive, limit=self._gateway.settings.server.max_body_bytes
        )
        return body, headers.get(_HEADER_LENGTH)


def _length(header: bytes, size: int) -> int:
    """The length of the JSON part of a body of that size."""
    if not header.isdigit() or not 0 < (length := int(header[:20])) <= size:
        raise Malformed(
            f"the header Inference-Header-Content-Length is no length within {size} bytes",
            mend="send the number of bytes of the JSON there, or leave the header out",
        )
    return length


def _parameters(content: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    value = content.get("parameters")
    if value is not None and type(value) is not dict:
        raise Invalid(f"{place}parameters: no object", mend='send {"name": value}')
    return value or {}


def _check_own(parameters: Mapping[str, Any]) -> None:
    """Look at the names that nobody here reads: a client may send parameters of its own.

    The protocol allows a string, a number or a boolean under any name, and Triton hands them to
    its model; only what a server is meant to know has a reserved name. Raises Invalid.
    """
    for name in parameters.keys() - _READ:
        if name.startswith(_RESERVED) and name != _STREAMED:
            raise Invalid(
                f"parameters.{name[:60]}: a reserved name, and no such parameter is known here",
                mend=f"leave it out; names of your own do not begin with {_RESERVED}",
            )
        if type(parameters[name]) not in _SCALARS:
            raise Invalid(
                f"parameters.{name[:60]}: a list or an object",
                mend="send a string, a number, true or false",
            )


def _terms(parameters: Mapping[str, Any], started: float) -> Terms:
    """`route` and `deadline_ms`, or the protocol's own `timeout` in microseconds."""
    for name in _STATEFUL:
        if parameters.get(name):
            raise Invalid(f"parameters.{name}: students keep no state", mend="leave it out")
    wishes = dict(parameters)
    if type(priority := wishes.get("priority")) is int:  # 1 is the highest there, 0 none
        wishes["priority"] = "high" if priority == 1 else "normal"
    timeout = parameters.get("timeout")
    if timeout is not None and "deadline_ms" not in wishes:
        if type(timeout) is not int or not 0 <= timeout <= _LONGEST:
            raise Invalid(
                "parameters.timeout: not a time", mend=f"send microseconds, up to {_LONGEST}"
            )
        wishes["deadline_ms"] = timeout / _MICROSECONDS or None  # 0 is "none" there
    return asked.terms(wishes, "parameters.", started)


def _outputs(value: Any, *, binary: bool) -> dict[str, bool] | None:
    if value is None or value == []:
        return None
    if type(value) is not list:
        raise Invalid("outputs: not a list", mend='send [{"name": "..."}]')
    found = {}
    for number, each in enumerate(value):
        place = f"outputs[{number}]."
        name = asked.name(each, "name", place) if type(each) is dict else None
        if name is None:
            raise Invalid(f"{place}name: not a name", mend='send {"name": "..."}')
        parameters = _parameters(each, place)
        if parameters.get("classification") or "shared_memory_region" in parameters:
            raise Invalid(
                f"{place}parameters: classification and shared memory are not offered",
                mend="ask for confidence.HEAD, and for the data itself",
            )
        given = asked.flag(parameters, "binary_data", f"{place}parameters.")
        found[name] = given if "binary_data" in parameters else binary
    return found


def _wanted(columns: Mapping[str, Column], question: Inference) -> list[tuple[Column, bool]]:
    """The columns that the reply holds, and whether each is binary."""
    if question.outputs is None:
        return [(column, question.binary) for column in columns.values()]
    if unknown := [name for name in question.outputs if name not in columns]:
        raise Invalid(
            f"outputs: there is no output {unknown[0][:60]!r}",
            mend=f"name some of: {', '.join(columns)}",
        )
    return [(columns[name], binary) for name, binary in question.outputs.items()]


def _outgoing(
    about: Mapping[str, Any],
    wanted: Sequence[tuple[Column, bool]],
    answers: Sequence[Answer],
    headers: Headers,
) -> Body:
    """The reply as JSON, with the binary tensors behind it, if there are any."""
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for column, binary in wanted:
        if binary:
            tensor, data = column.binary(answers)
            outputs.append(tensor)
            parts.append(data)
        else:
            outputs.append(column.tensor(answers))
    head = orjson.dumps({**about, "outputs": outputs})
    if not parts:
        return Body(head, headers=headers)
    length = (_HEADER_LENGTH, b"%d" % len(head))
    return Body(b"".join((head, *parts)), _OCTETS, (*headers, length))


def _get(path: str, answer: Any, summary: str, signature: Any, reply: Any) -> Endpoint:
    statuses = (401, 500) if path == "/v2" else (401, 404, 500, 503)
    return Endpoint("GET", path, answer, Shown(summary, signature, reply, statuses))


def _probe(path: str, answer: Any, signature: Any, reply: Any) -> Endpoint:
    return Endpoint(
        "GET", path, answer, Shown("A probe", signature, reply, (500, 503)), access=Access.OPEN
    )


# Documented so, a body may be left out and is never null.
_ANY = shapes.OipIndexRequest()
_SERVING = shapes.OipLoadRequest()
_Bundle = Annotated[str | None, Query(description="the same, for clients that send no parameters")]
_OCTET_CONTENT = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
}
_BINARY: Mapping[str, Any] = {
    "requestBody": {"content": _OCTET_CONTENT},
    "responses": {"200": {"content": _OCTET_CONTENT}},
}


async def _server() -> None:
    """Name, version and extensions."""


async def _live() -> None:
    """Whether the process can still answer; if not, restart it."""


async def _ready() -> None:
    """Whether new requests may be sent here."""


async def _model(model: str) -> None:
    """The tensors of a task, and the version that serves: the name of its bundle."""


async def _model_version(model: str, version: str) -> None:
    """The same, if that version serves; else 404, which names the one that does."""


async def _is_ready(model: str) -> None:
    """Whether a task may be asked here."""


async def _is_version_ready(model: str, version: str) -> None:
    """Whether that version of a task serves."""


async def _infer(model: str, body: shapes.OipRequest) -> None:
    """One BYTES tensor of texts in, of the shape [n] or [n, 1]; n elements of each output out.

    Tensors are JSON, or binary: then the header Inference-Header-Content-Length says how many
    bytes of the body are JSON, and the data stands behind it.
    """


async def _infer_version(model: str, version: str, body: shapes.OipRequest) -> None:
    """The same, if that version serves."""


async def _index(body: shapes.OipIndexRequest = _ANY) -> None:
    """The tasks and the versions that serve; with `ready` only what may be asked."""


async def _load(model: str, body: shapes.OipLoadRequest = _SERVING, bundle: _Bundle = None) -> None:
    """Another bundle of the registry takes over; the one that served stays loaded for a rollback.

    Without a bundle's name nothing is left to do: what serves is loaded.
    """


async def _unload(model: str) -> None:
    """A task without its student could not be served: load another bundle in its place."""

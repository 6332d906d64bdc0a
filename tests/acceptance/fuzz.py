"""Sends a gateway requests nobody thought of: `python -m tests.acceptance.fuzz URL KEY CASES`.

Prints one JSON object: how many cases, their statuses, and what was not as /openapi.json says. It
is a process of its own, since ONNX Runtime, set to flush denormals, changes the floats of the
thread that opens a session, and then nothing can be drawn.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

TIMEOUT_S = 60.0  # of one request: far above what anything takes here
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
TEXT = {"type": "string", "pattern": r"\S"}
# What the shape of a body does not say, so that the better half of the cases is also answered.
LIKELY: dict[str, dict[str, Any]] = {
    "PredictRequest": {"input": TEXT, "inputs": False, "task": {"const": "tickets"}},
    "TeiRequest": {
        "inputs": {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1}]},
        "raw_scores": {"const": False},
        "model": {"type": "null"},
        "task": {"type": "null"},
        "head": {"enum": [None, "intent", "flags"]},
    },
    "OipTensor": {
        "shape": {"const": [1]},
        "data": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1},
        "parameters": {"type": "null"},
    },
    "OipRequestedOutput": {"name": {"enum": ["intent", "flags", "score", "route"]}},
    "Message": {"role": {"const": "user"}, "content": TEXT},
    "ChatRequest": {"model": {"const": "tickets"}},
    "ModerationRequest": {"model": {"const": "tickets"}, "input": TEXT},
}

Operation = APIOperation[Any, Any, Any, Any]


@schemathesis.serializer("application/x-tar", "application/gzip", "application/zip")
def as_bytes(context: Any, value: Any) -> bytes:  # noqa: ARG001  its signature
    """Whatever was drawn as an archive, which it hardly ever is."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@dataclass(slots=True)
class Fuzz:
    """Where the requests go, and what came of them."""

    url: str
    headers: dict[str, str]
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def everything(self, cases: int) -> None:
        """Send so many cases of either kind to each route: as documented, and broken."""
        schema = schemathesis.openapi.from_dict(self._document())
        for found in schema.get_all_operations():
            operation: Operation = found.ok()  # type: ignore[union-attr]  # else it raises
            for mode in GenerationMode:
                if mode is GenerationMode.POSITIVE or _breakable(operation):
                    self._one(operation, mode, cases)

    def _one(self, operation: Operation, mode: GenerationMode, cases: int) -> None:
        @settings(
            max_examples=cases,
            derandomize=True,  # the same cases every time
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Case[Any]) -> None:
            reply = case.call(base_url=self.url, headers=self.headers, timeout=TIMEOUT_S)
            self.statuses[reply.status_code] += 1
            try:
                case.validate_response(reply, checks=CHECKS)
            except FailureGroup as group:
                said = "; ".join(f"{each.title}: {each.message}" for each in group.exceptions)
                self.failures.append(f"{operation.label}, {mode.value}: {reply.status_code} {said}")

        send()

    def _document(self) -> dict[str, Any]:
        """/openapi.json with LIKELY laid over it; a path mostly names what is there."""
        document, served = (
            httpx2.get(f"{self.url}{path}", headers=self.headers, timeout=TIMEOUT_S).json()
            for path in ("/openapi.json", "/v1/tasks")
        )
        steps = {name: ["tickets", "nobody"] for name in ("model", "task")}
        steps["version"] = steps["bundle"] = [task["bundle"] for task in served["tasks"]]
        for name, properties in LIKELY.items():
            schema = document["components"]["schemas"][name]
            schema["properties"] |= properties
            wanted = [key for key, each in properties.items() if each is not False]
            schema["required"] = sorted({*schema.get("required", ()), *wanted})
        for path in document["paths"].values():
            for operation in path.values():
                for parameter in operation.get("parameters", ()):
                    if parameter["in"] == "path":
                        parameter["schema"] = {"type": "string", "enum": steps[parameter["name"]]}
        found: dict[str, Any] = document
        return found


def _breakable(operation: Operation) -> bool:
    """Whether a route reads anything that could be wrong."""
    return bool(operation.body or operation.path_parameters or operation.query)


def main() -> None:
    """Fuzz, and print what came of it."""
    url, key, cases = sys.argv[1:]
    fuzz = Fuzz(url, {"authorization": f"Bearer {key}"})
    fuzz.everything(int(cases))
    said = {
        "cases": fuzz.statuses.total(),
        "statuses": fuzz.statuses,
        "failures": sorted(set(fuzz.failures)),
    }
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()

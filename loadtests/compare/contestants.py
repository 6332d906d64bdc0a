"""Who takes part: Understudy and its peers, how each is started, asked and read.

Every peer serves the same model (model.py) in the configuration that was found best for it on two
cores, which `setup` names in the table.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from gateway.api.auth import new_key
from gateway.contract.bundle import open_bundle
from loadtests.compare.environment import environment
from loadtests.compare.model import BUNDLE, PORT, WORKERS

HERE = Path(__file__).resolve().parent

Labels = dict[str, Any]  # head -> label, or list of labels


@dataclass(frozen=True, slots=True)
class Dialect:
    """How texts are asked about, and how the labels stand in the reply."""

    path: str
    body: Callable[[Sequence[str]], bytes]
    labels: Callable[[Any], list[Labels]]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that serves, and what it is asked with."""

    command: Sequence[str]
    folder: Path
    variables: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server. `launch(bundle, port, workers, folder)` may write files into `folder`."""

    name: str
    setup: str
    dialect: Dialect
    launch: Callable[[Path, int, int, Path], Launch]
    ours: bool = False


def _ours(bundle: Path, port: int, workers: int, folder: Path) -> Launch:
    del workers  # it finds the cores itself
    key, digest = new_key("bench")
    task = {
        # And the defaults of `understudy serve`; but as peers do, it lets requests wait.
        "student": {"bundle": str(bundle), "max_wait_ms": 60_000},
        "teacher": {"scripted": {}},
        "policy": {"threshold": 0.0},  # peers have no teacher: the student answers everything
        "audit": {"share": 0.0},
    }
    document = {
        "version": 1,
        "server": {"port": port},
        "keys": [{"name": "bench", "sha256": digest}],
        "tasks": {open_bundle(bundle).manifest.task.name: task},
        "records": {"path": "records.db"},
        "logging": {"level": "warning"},
    }
    config = folder / "understudy.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    return Launch(command, HERE.parents[1], {}, {"authorization": f"Bearer {key}"})


@dataclass(frozen=True, slots=True)
class _Peer:
    """Starts `command` of the peer's environment, in its folder, next to model.py."""

    name: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, bundle: Path, port: int, workers: int, folder: Path) -> Launch:
        """Raises StageFailed when the environment cannot be made."""
        place = HERE / self.name
        programs = environment(self.name, place / "requirements.txt")
        values = {
            "port": port,
            "folder": folder,
            "workers": workers,
            "after": port + 1,
            "then": port + 2,
        }
        program, *arguments = [part.format(**values) for part in self.command]
        variables = {
            BUNDLE: str(bundle.resolve()),
            PORT: str(port),
            WORKERS: str(workers),
            "PATH": f"{programs}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": f"{HERE}:{place}",
            "TMPDIR": str(folder),
            "TOKENIZERS_PARALLELISM": "false",
        }
        variables |= {key: value.format(**values) for key, value in self.variables.items()}
        return Launch([str(programs / program), *arguments], place, variables)


def _native(texts: Sequence[str]) -> bytes:
    return orjson.dumps({"input": texts[0]} if len(texts) == 1 else {"inputs": texts})


def _native_labels(reply: Any) -> list[Labels]:
    return [each["labels"] for each in reply.get("results", [reply])]


def _oip(texts: Sequence[str]) -> bytes:
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return orjson.dumps({"inputs": [tensor]})


def _oip_labels(reply: Any) -> list[Labels]:
    (tensor,) = [each for each in reply["outputs"] if each["name"] == "labels"]
    return [json.loads(value) for value in tensor["data"]]


NATIVE = Dialect("/v1/predict", _native, _native_labels)
PLAIN = Dialect(
    "/predict",
    lambda texts: orjson.dumps({"texts": texts}),
    lambda reply: [each["labels"] for each in reply["answers"]],
)
BARE = Dialect(PLAIN.path, PLAIN.body, lambda reply: [each["labels"] for each in reply])
OIP = Dialect("/v2/models/student/infer", _oip, _oip_labels)

OURS = Contestant(
    "understudy",
    "one process with the defaults; key, policy, metrics and records on",
    NATIVE,
    _ours,
    ours=True,
)
PEERS = {
    each.name: each
    for each in (
        Contestant(
            "naive",
            "FastAPI and uvicorn, one process a core, no batching",
            PLAIN,
            _Peer(
                "naive",
                (
                    *("python", "-m", "uvicorn", "server:app", "--host", "127.0.0.1"),
                    *("--port", "{port}", "--workers", "{workers}", "--no-access-log"),
                    *("--log-level", "warning"),
                ),
            ),
        ),
        Contestant(
            "litserve",
            "one worker and one HTTP server a core, no batching",
            PLAIN,
            _Peer("litserve", ("python", "server.py")),
        ),
        Contestant(
            "bentoml",
            "one worker a core, adaptive batches of at most 8",
            BARE,
            _Peer(
                "bentoml",
                (
                    *("bentoml", "serve", "server:Student", "--host", "127.0.0.1"),
                    *("--port", "{port}"),
                ),
                {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{folder}"},
            ),
        ),
        Contestant(
            "ray",
            "Ray Serve, one replica a core, no batching",
            PLAIN,
            _Peer("ray", ("python", "server.py"), {"RAY_USAGE_STATS_ENABLED": "0"}),
        ),
        Contestant(
            "mlserver",
            "one worker process a core, no batching",
            OIP,
            _Peer(
                "mlserver",
                ("mlserver", "start", "."),
                {
                    "MLSERVER_HOST": "127.0.0.1",
                    "MLSERVER_HTTP_PORT": "{port}",
                    "MLSERVER_GRPC_PORT": "{after}",
                    "MLSERVER_METRICS_PORT": "{then}",
                    "MLSERVER_PARALLEL_WORKERS": "{workers}",
                },
            ),
        ),
    )
}

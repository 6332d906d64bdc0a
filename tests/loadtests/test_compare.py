"""The comparison, on a tiny bundle: real servers, real environments, small counts."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from exporters.unmasked import unmask
from exporters.wiring import drop_unused
from gateway.contract.bundle import MODEL, entries, open_bundle, write
from gateway.errors import DataError, StageFailed
from loadtests.compare import __main__ as program
from loadtests.compare import contestants, report
from loadtests.compare.ceiling import Bench, Ceiling
from loadtests.compare.contest import compare
from loadtests.compare.contestants import BARE, HERE, OIP, PEERS, PLAIN, Contestant, Launch
from loadtests.compare.environment import environment
from loadtests.compare.figures import Comparison, System
from loadtests.compare.model import BUNDLE, PORT, Model
from loadtests.compare.serving import serving
from loadtests.compare.tree import Tree
from tests.acceptance.process import TIMEOUT_S
from tests.factories import CONFIDENT, UNSURE, tiny_bundle

_TEXTS = [CONFIDENT, UNSURE, "fraud", "my lawyer says urgent fraud", "hello"]
_SAYS: list[tuple[str, dict[str, Any]]] = [
    ("refund", {"intent": "refund", "flags": []}),
    ("fraud", {"intent": "fraud", "flags": []}),
    ("urgent", {"intent": "other", "flags": ["urgent"]}),
    ("lawyer", {"intent": "other", "flags": ["legal"]}),
]
# 32 texts of 1 to 13 words, short and long in turn, and what is said about each.
_MANY = ["hello " * (place % 13) + _SAYS[place % 4][0] for place in range(32)]
_MANY_LABELS = [_SAYS[place % 4][1] for place in range(32)]
_LONG = "refund " * 20  # more words than the tiny student reads


def _naive(bundle: Path, port: int, workers: int, folder: Path) -> Launch:
    """The naive peer, in the environment of the tests: FastAPI and uvicorn are here as well."""
    del workers, folder
    command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port)]
    place = HERE / "naive"
    return Launch(command, place, {BUNDLE: str(bundle), "PYTHONPATH": f"{HERE}:{place}"})


def _command(*words: str) -> Callable[[Path, int, int, Path], Launch]:
    def launch(bundle: Path, port: int, workers: int, folder: Path) -> Launch:
        del bundle, port, workers
        return Launch(words, folder, {})

    return launch


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def unmasked(bundle: Path) -> Path:
    """The same student without a mask, to which a padded text says fraud."""
    opened = open_bundle(bundle)
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(opened.model))
    assert unmask(proto)
    drop_unused(proto)
    (table,) = [each for each in proto.graph.initializer if each.name == "table"]
    rows = numpy_helper.to_array(table).copy()
    rows[0] = rows[3]  # ids 0 and 3 are [PAD] and "fraud"
    table.CopyFrom(numpy_helper.from_array(rows, "table"))
    files = {each.name: (bundle / each.name).read_bytes() for each in opened.manifest.files}
    files[MODEL] = proto.SerializeToString()
    manifest = opened.manifest.model_copy(update={"files": entries(files)})
    return write(manifest, files, bundle.parent)


@pytest.fixture(params=["bundle", "unmasked"])
def either(request: pytest.FixtureRequest) -> Path:
    """A student with a mask, and one without."""
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.mark.acceptance
def test_ours_is_measured_checked_and_written_down(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "out"
    texts.write_text("\n".join([*_TEXTS, _LONG]))
    given = ["--bundle", str(bundle), "--texts", str(texts), "--seconds", "0.2", "--rate", "50"]
    assert program.main([*given, "--peers", "none", "--out", str(out)]) == 0
    figures = json.loads((out / "figures.json").read_bytes())
    assert (figures["texts"], figures["left_out"], len(figures["ceilings"])) == (5, 1, 2)
    (ours,) = figures["systems"]
    assert ours["failure"] == ""
    assert [load["connections"] for load in ours["loads"]] == [1, 16, 64]
    for load in [*ours["loads"], ours["many"]]:
        assert load["errors"] == 0
        assert load["requests"] > 0
        assert load["ratio"] == round(load["texts_per_s"] / max(ours["ceiling"].values()), 3)
    assert ours["many"]["rows"] == 32
    assert ours["agreement"] == [
        {"asked": 320, "answered": 320, "equal": 320},
        {"asked": 10, "answered": 10, "equal": 10},
    ]
    assert ours["pss_mb"] > 10
    assert sum(load["cpu_us"] for load in ours["loads"]) > 0
    half, given_rate = ours["steady"]
    assert half["per_s"] == round(ours["loads"][-1]["texts_per_s"] / 2, 1)
    assert (given_rate["per_s"], given_rate["errors"]) == (50, 0)
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "understudy: open loops" in printed
    assert "320/320" in printed


@pytest.mark.acceptance
def test_a_peer_answers_like_the_student_and_is_ended_with_all_its_processes(
    bundle: Path,
) -> None:
    peer = Contestant("naive", "in the tests' environment", PLAIN, _naive)
    found = compare(bundle, _TEXTS, [peer], seconds=0.1)
    (system,) = found.systems
    assert (system.failure, system.steady) == ("", ())
    assert all(each.equal == each.answered == each.asked for each in system.agreement)
    assert len(found.ceilings) == 2


@pytest.mark.acceptance
def test_a_peer_answers_many_texts_of_one_request_rightly(either: Path) -> None:
    with serving(Contestant("naive", "", PLAIN, _naive), either, 1) as server:
        headers = {"content-type": "application/json"}
        body = PLAIN.body(_MANY)
        request = urllib.request.Request(server.url, body, headers)  # noqa: S310  http, our own
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:  # noqa: S310
            assert PLAIN.labels(json.load(reply)) == _MANY_LABELS


def test_a_peer_that_cannot_serve_is_a_line_in_the_table(bundle: Path) -> None:
    broken = Contestant("broken", "", PLAIN, _command(sys.executable, "-c", "exit('no port')"))
    found = compare(bundle, _TEXTS, [broken], seconds=0.1)
    (system,) = found.systems
    assert system.failure.startswith("broken does not serve")
    assert "no port" in system.failure  # the end of its log
    assert "not measured" in _printed(found)


def test_an_environment_is_made_once_and_again_when_its_requirements_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    build = subprocess.run

    def run(command: list[str], **more: Any) -> Any:
        made.append(command)
        return build(command, **more)

    monkeypatch.setattr(subprocess, "run", run)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# nothing\n")
    programs = environment("peer", requirements, tmp_path / "peers")
    assert (programs / "python").exists()
    assert len(made) == 2  # the environment, and what is in it
    assert environment("peer", requirements, tmp_path / "peers") == programs
    assert len(made) == 2
    requirements.write_text("./missing.whl\n")
    with pytest.raises(StageFailed, match=r"peer: its environment could not be made: .*missing"):
        environment("peer", requirements, tmp_path / "peers")


def test_every_peer_pins_what_it_installs() -> None:
    for name in PEERS:
        lines = (HERE / name / "requirements.txt").read_text().splitlines()
        packages = {line.partition("==")[0].partition("<")[0].partition("[")[0] for line in lines}
        assert {"numpy", "onnxruntime", "tokenizers"} <= packages
        assert all("==" in line or "<" in line for line in lines), name


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_started_on_the_port_and_with_the_bundle_that_it_is_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "environment", lambda name, _: tmp_path / name / "bin")
    launch = PEERS[name].launch(tmp_path / "bundle", 18_000, 2, tmp_path)
    assert launch.command[0].startswith(str(tmp_path / name / "bin"))
    assert launch.variables[PORT] == "18000"
    assert launch.variables[BUNDLE] == str(tmp_path / "bundle")
    given = [*launch.command, *launch.variables.values()]
    assert not any("{" in value for value in given)


def test_the_peers_model_says_what_the_student_says(either: Path) -> None:
    bench = Bench(either, [*_TEXTS, *_MANY], threads=1)
    model = Model(either)
    assert [answer["labels"] for answer in model.answer(bench.texts)] == bench.labels()
    assert bench.labels()[3] == {"intent": "fraud", "flags": ["urgent", "legal"]}
    assert bench.labels()[5:] == _MANY_LABELS
    scores = [answer["score"] for answer in model.answer([CONFIDENT, UNSURE])]
    assert scores == pytest.approx([0.997, 0.62], abs=0.005)  # as tests/factories.py works out


class _Calls(Model):
    """Notes how long the rows of each call are."""

    def __init__(self, folder: Path) -> None:
        self.lengths: list[list[int]] = []
        super().__init__(folder)

    def _run(self, rows: Sequence[Sequence[int]]) -> Any:
        self.lengths.append(list(map(len, rows)))
        return super()._run(rows)


def test_the_peers_model_pads_with_a_mask_and_without_one_runs_each_length_by_itself(
    bundle: Path, unmasked: Path
) -> None:
    texts = ["urgent urgent refund", "fraud", "my lawyer", "refund", "hello"]
    expected = {bundle: [[3, 1, 2, 1, 1]], unmasked: [[1, 1, 1], [2], [3]]}
    for folder, calls in expected.items():
        model = _Calls(folder)
        model.lengths.clear()  # of the warm-up
        model.answer(texts)
        assert model.lengths == calls


def test_the_peers_model_runs_a_graph_of_its_own_inputs_one_text_at_a_time(
    tmp_path: Path,
) -> None:
    folder = tiny_bundle(tmp_path / "bundles", batch_invariant=False)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    _without_mask(copy / "model.onnx")
    assert Model(copy).answer(_TEXTS) == Model(folder).answer(_TEXTS)


def _without_mask(path: Path) -> None:
    """Let the graph take 32-bit ids alone, and find its mask itself."""
    model = onnx.load(str(path))
    graph = model.graph
    rows = ["rows", "width"]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT32, rows)
    for node in graph.node:
        renamed = ["ids" if name == "input_ids" else name for name in node.input]
        node.ClearField("input")
        node.input.extend(renamed)
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.INT64),
        helper.make_node("Greater", ["ids", "nothing"], ["some"]),
        helper.make_node("Cast", ["some"], ["attention_mask"], to=TensorProto.INT64),
        *graph.node,
    ]
    graph.ClearField("node")
    graph.node.extend(nodes)
    graph.ClearField("input")
    graph.input.append(ids)
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "nothing"))
    onnx.save(model, str(path))


def test_labels_are_read_from_every_dialect() -> None:
    labels = {"intent": "refund", "flags": []}
    said = [{"labels": labels, "score": 1.0}]
    assert PLAIN.labels({"answers": said}) == BARE.labels(said) == [labels]
    outputs = [{"name": "score", "data": [1.0]}, {"name": "labels", "data": [json.dumps(labels)]}]
    assert OIP.labels({"outputs": outputs}) == [labels]
    assert json.loads(OIP.body(["a", "b"]))["inputs"][0]["shape"] == [2]


def test_the_ceiling_leaves_out_texts_that_the_student_must_cut(bundle: Path) -> None:
    bench = Bench(bundle, [*_TEXTS, _LONG], threads=2)
    assert (bench.texts, bench.left_out) == (_TEXTS, 1)
    assert bench.ceiling(0.0).best > 0
    with pytest.raises(DataError, match="longer than the student reads"):
        Bench(bundle, [_LONG], threads=1)


def test_a_process_tree_counts_and_ends_children_that_left_their_session(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    child = "import os, signal; os.setsid(); open(os.environ['READY'], 'w').close(); signal.pause()"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "child.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        start_new_session=True,
        env={**os.environ, "READY": str(ready)},
    )
    tree = Tree(process.pid)
    ready.read_bytes()  # until the child has opened it, in a session of its own
    assert tree.cpu_s() > 0
    assert len(tree._alive()) == 2
    assert tree.pss_mb() > 5  # two interpreters
    tree.end()
    process.wait()
    assert tree._alive() == []


def test_a_server_is_asked_without_the_keys_of_this_environment(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_API_KEYS", f"other:{'0' * 64}")
    show = "import os, sys; sys.exit(os.environ.get('UNDERSTUDY_API_KEYS', 'no keys here'))"
    contestant = Contestant("shown", "", PLAIN, _command(sys.executable, "-c", show))
    with pytest.raises(StageFailed, match="no keys here"), serving(contestant, bundle, 1):
        pass


def test_a_machine_that_was_not_quiet_is_said_to_be_so() -> None:
    assert "not quiet: its ceiling moved by 50%" in _printed(_comparison(200.0, 300.0))
    assert "not quiet" not in _printed(_comparison(200.0, 250.0))


def _comparison(*ceilings: float) -> Comparison:
    return Comparison(
        bundle="b",
        cores=2,
        texts=1,
        left_out=0,
        seconds=1.0,
        ceilings=[Ceiling(single=each, batched=each / 2) for each in ceilings],
        systems=[System("x", "", failure="gone")],
    )


def _printed(comparison: Comparison) -> str:
    output = io.StringIO()
    Console(file=output, width=200).print(report.tables(comparison))
    return output.getvalue()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--bundle", "missing"], "run `make demo`"),
        (["--peers", "nobody"], "there is no peer 'nobody'"),
        (["--seconds", "0"], "--seconds 0: not possible"),
        (["--texts", "missing.txt"], "cannot be read"),
    ],
)
def test_a_mistake_in_the_options_is_said_with_exit_status_2(
    bundle: Path, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--bundle", str(bundle), "--peers", "none", *given]) == 2
    assert said in capsys.readouterr().err

"""The gateway alone: it starts soon, and needs nothing that only training needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from loadtests.compare.tree import Tree
from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT, settings_file

pytestmark = pytest.mark.acceptance

SLOWEST_S = 10.0  # to be ready; one or two are usual
WITHOUT_TRAINING = """\
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError("refused: " + name, name=name)

sys.meta_path.insert(0, Refusal())

from gateway.cli import main

main(sys.argv[1:])
"""
TRAINING = {
    "torch", "onnx", "onnxscript", "transformers", "sklearn", "scipy", "accelerate", "matplotlib",
    "pyarrow", "distill", "exporters",
}  # fmt: skip


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway in a process that refuses to import any library of training."""
    command = (sys.executable, "-c", WITHOUT_TRAINING.replace("{names}", repr(TRAINING)))
    path = settings_file(tmp_path_factory.mktemp("lean"))
    with closing(Process(path, command=command)) as process:
        yield process


def test_it_answers_where_no_library_of_training_is_installed(lean: Process) -> None:
    assert lean.tasks == "tickets"
    assert lean.ask(CONFIDENT)["labels"]["intent"] == "refund"


def test_little_work_makes_it_ready(lean: Process) -> None:
    assert Tree(lean.pid).cpu_s() <= SLOWEST_S  # of processor time: whoever else has the machine
    assert lean.start_s <= TIMEOUT_S  # nor does it wait for something that never comes


@pytest.mark.soak  # as long as whoever else has the machine lets it take
def test_it_is_ready_soon(lean: Process, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\nprocess start to ready: {lean.start_s:.2f} s\n")
    assert lean.start_s <= SLOWEST_S

"""The run folder: stages that are done once, go on after an interruption, and are never half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from distill.run import Run
from gateway.errors import UsageError

INPUTS = {"recipe": "ab", "data": {"tickets.csv": "cd"}}


def ticking() -> Callable[[], float]:
    """A clock that goes on by one second each time it is read."""
    seconds: Iterator[int] = count()
    return lambda: float(next(seconds))


def writes(name: str, text: str = "done") -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        (folder / name).write_text(text)

    return work


def never(_folder: Path) -> None:
    pytest.fail("a finished stage was done again")


def test_equal_inputs_give_the_same_folder_and_others_another(tmp_path: Path) -> None:
    with Run.open(tmp_path, "tickets", inputs=INPUTS) as one:
        pass
    with Run.open(tmp_path, "tickets", inputs=dict(reversed(INPUTS.items()))) as same:
        pass
    with Run.open(tmp_path, "tickets", inputs={"recipe": "other"}) as other:
        pass
    # printf '{"data":{"tickets.csv":"cd"},"recipe":"ab"}' | sha256sum
    assert one.folder == same.folder == tmp_path / "tickets-fbe99f62dbf6"
    assert other.folder != one.folder


def test_the_run_says_what_it_was_begun_with(tmp_path: Path) -> None:
    with Run.open(tmp_path, "tickets", inputs=INPUTS) as run:
        told = json.loads((run.folder / "run.json").read_text())
    assert told["inputs"] == INPUTS
    assert told["versions"]["numpy"]
    assert told["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["commit"] == run.commit()


def test_a_stage_gets_its_name_only_when_it_ends(tmp_path: Path) -> None:
    with Run.open(tmp_path, "t", inputs=INPUTS) as run:

        def work(folder: Path) -> None:
            assert folder == run.folder / "train.partial"
            assert not (run.folder / "train").exists()
            (folder / "weights").write_text("w")

        result = run.stage("train", work)
        assert result == run.folder / "train"
        assert (result / "weights").read_text() == "w"
        assert not (run.folder / "train.partial").exists()


def test_a_finished_stage_is_kept_by_a_later_start(tmp_path: Path) -> None:
    with Run.open(tmp_path, "t", inputs=INPUTS) as run:
        run.stage("train", writes("weights"))
    with Run.open(tmp_path, "t", inputs=INPUTS) as run:
        assert (run.stage("train", never) / "weights").read_text() == "done"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError])
def test_an_interrupted_stage_goes_on_from_what_it_left(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    def begin(folder: Path) -> None:
        (folder / "epoch-1").write_text("half")
        raise interruption

    def end(folder: Path) -> None:
        assert (folder / "epoch-1").read_text() == "half"

    with (
        pytest.raises(interruption),
        Run.open(tmp_path, "t", inputs=INPUTS, clock=ticking()) as run,
    ):
        run.stage("train", begin)
    with Run.open(tmp_path, "t", inputs=INPUTS, clock=ticking()) as run:
        assert run.seconds == {"train": 1.0}
        run.stage("train", end)
        assert run.seconds == {"train": 2.0}


def test_seconds_are_kept_for_the_next_start(tmp_path: Path) -> None:
    with Run.open(tmp_path, "t", inputs=INPUTS, clock=ticking()) as run:
        run.stage("split", writes("a"))
        run.stage("train", writes("b"))
    with Run.open(tmp_path, "t", inputs=INPUTS) as run:
        assert run.seconds == {"split": 1.0, "train": 1.0}


def test_the_observer_is_told_of_each_stage(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def note(stage: str, event: str) -> None:
        seen.append((stage, event))

    with Run.open(tmp_path, "t", inputs=INPUTS, on_stage=note) as run:
        run.stage("split", writes("a"))
        run.stage("split", writes("a"))
    assert seen == [("split", "started"), ("split", "finished"), ("split", "kept")]


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, distill.run as run\n"
        "run.Run.open(pathlib.Path(sys.argv[1]), 't', inputs={'recipe': 'ab'})\n"
    )
    with Run.open(tmp_path, "t", inputs={"recipe": "ab"}):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert f"process {os.getpid()} is writing this run" in done.stderr


def test_a_closed_run_can_be_opened_again(tmp_path: Path) -> None:
    run = Run.open(tmp_path, "t", inputs=INPUTS)
    with pytest.raises(UsageError, match="is writing this run"):
        Run.open(tmp_path, "t", inputs=INPUTS)
    run.close()
    Run.open(tmp_path, "t", inputs=INPUTS).close()


def test_a_parent_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        Run.open(tmp_path / "file", "t", inputs=INPUTS)


def test_broken_seconds_are_told_with_their_mend(tmp_path: Path) -> None:
    with Run.open(tmp_path, "t", inputs=INPUTS) as run:
        (run.folder / "seconds.json").write_text("{")
    with pytest.raises(UsageError, match="only the stages' times are lost"):
        Run.open(tmp_path, "t", inputs=INPUTS)


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_repository_around_the_run(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "recipe.yaml").write_text("version: 1\n")
    (tmp_path / ".gitignore").write_text("t-*\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "begin")
    head = git(tmp_path, "rev-parse", "HEAD")
    with Run.open(tmp_path, "t", inputs=INPUTS) as run:
        assert run.commit() == head
        (tmp_path / "recipe.yaml").write_text("version: 2\n")
        assert run.commit() == f"{head}-dirty"


def test_there_is_no_commit_outside_a_repository_or_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with Run.open(tmp_path, "t", inputs=INPUTS) as run:
        assert run.commit() is None
        monkeypatch.setenv("PATH", "")
        assert run.commit() is None

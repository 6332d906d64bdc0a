"""The rehearsal in its own process: what passes, and what a process can do wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.contract.bundle import open_bundle
from gateway.errors import (
    BundleCorrupt,
    BundleCrashed,
    BundleMismatch,
    BundleMissing,
    BundleSlow,
)
from gateway.settings import environment_without_keys
from gateway.students import rehearsal
from gateway.students.rehearsal import Caps, rehearse, warm
from gateway.students.student import Student
from tests.factories import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


def site(folder: Path, code: str) -> dict[str, str]:
    """An environment in which Python runs `code` before anything else."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return environment_without_keys() | {"PYTHONPATH": f"{folder}:{Path.cwd()}"}


def test_a_sound_bundle_passes(bundle: Path) -> None:
    rehearse(bundle, environment=environment_without_keys())


def test_what_opening_raises_there_is_raised_here(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="nowhere: there is no bundle at"):
        rehearse(tmp_path / "nowhere", environment=environment_without_keys())
    copy = tmp_path / bundle.name
    copy.mkdir()
    for each in bundle.iterdir():
        (copy / each.name).write_bytes(each.read_bytes())
    (copy / "CARD.md").write_bytes(b"other")
    with pytest.raises(BundleCorrupt) as caught:
        rehearse(copy, environment=environment_without_keys())
    assert caught.value.mend


def test_a_process_that_ends_without_a_word_is_a_crash(bundle: Path, tmp_path: Path) -> None:
    environment = site(tmp_path / "site", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(BundleCrashed, match="status -11"):
        rehearse(bundle, environment=environment)


def test_a_process_that_says_something_else_is_a_crash(bundle: Path, tmp_path: Path) -> None:
    environment = site(tmp_path / "site", "import os; print('{}', flush=True); os._exit(0)")
    with pytest.raises(BundleCrashed, match="status 0"):
        rehearse(bundle, environment=environment)


def test_a_process_that_hangs_is_ended(bundle: Path, tmp_path: Path) -> None:
    environment = site(tmp_path / "site", "import signal; signal.pause()")
    with pytest.raises(BundleSlow, match=r"more than 0\.5 s"):
        rehearse(bundle, environment=environment, caps=Caps(wall_s=0.5))


def test_no_secret_reaches_the_process(bundle: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    environment = site(
        tmp_path / "site",
        f"import os, pathlib; pathlib.Path({str(seen)!r}).write_text('\\n'.join(os.environ))",
    )
    secrets = {"UNDERSTUDY_API_KEY": "a", "TEACHER_TOKEN": "b", "PGPASSWORD": "c"}
    rehearse(bundle, environment=environment | secrets)
    names = set(seen.read_text().splitlines())
    assert "PYTHONPATH" in names
    assert not names & secrets.keys()


def test_nothing_of_the_working_folder_is_run(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path.cwd()
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    rehearse(bundle, environment=environment_without_keys() | {"PYTHONPATH": str(root)})


def test_what_libraries_print_does_not_get_between_the_words(bundle: Path, tmp_path: Path) -> None:
    code = "import atexit, os; atexit.register(lambda: os.write(1, b'goodbye'))"
    rehearse(bundle, environment=site(tmp_path / "site", code))


def test_what_the_process_does_is_said_in_one_object(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same code as in the other process, where no one can look."""

    def raising(error: Exception) -> dict[str, str]:
        def broken(_student: Student) -> None:
            raise error

        monkeypatch.setattr(rehearsal, "warm", broken)
        return rehearsal._perform(bundle)

    assert rehearsal._perform(bundle)["code"] == ""
    said = raising(BundleMismatch("wrong", mend="mend it"))
    assert said == {"code": "bundle_mismatch", "message": "wrong", "mend": "mend it"}
    assert raising(RuntimeError("bad shape"))["message"] == "the model cannot be run: bad shape"
    for error in (
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        BundleMismatch("model.onnx cannot be loaded: Failed to allocate memory"),
    ):
        assert raising(error)["code"] == "bundle_memory"


def test_a_student_is_warmed_at_every_length(bundle: Path) -> None:
    student = Student(open_bundle(bundle))
    seen: list[tuple[int, int]] = []
    run = student.session.run

    def noting(rows: list[list[int]]) -> object:
        seen.append((len(rows), len(rows[0])))
        return run(rows)

    student.session.run = noting  # type: ignore[method-assign, assignment]
    warm(student)
    # The tiny student reads 16 tokens.
    assert seen == [(1, 1), (2, 1), (1, 8), (2, 8), (1, 16), (2, 16)]

"""A project folder: which bundle is meant, and which training made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.workspace import SEALED, Workspace
from gateway.contract.bundle import open_bundle
from tests.factories import tiny_bundle


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_runs_and_bundles_stand_in_the_folder(workspace: Workspace, tmp_path: Path) -> None:
    assert workspace.runs == tmp_path / "runs"
    assert workspace.bundles == tmp_path / "bundles"


def test_a_link_means_the_bundle_and_survives_a_move_of_the_folder(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = tiny_bundle(workspace.bundles)
    link = workspace.link("student", path)
    assert link == workspace.bundles / "student"
    assert link.readlink() == Path(path.name)  # relative
    assert workspace.linked("student") == path
    assert workspace.linked("teacher") is None
    moved = workspace.folder.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert open_bundle(moved / "bundles" / "student").name == path.name


def test_a_link_moves_to_a_newer_bundle_and_is_never_away(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tiny_bundle(workspace.bundles), tiny_bundle(workspace.bundles, seed=1)
    workspace.link("student", old)
    replace = Path.replace
    seen: list[Path | None] = []

    def watched(path: Path, target: Path) -> Path:
        seen.append(workspace.linked("student"))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    workspace.link("student", new)
    assert seen == [old]
    assert workspace.linked("student") == new
    names = {each.name for each in workspace.bundles.iterdir()}
    assert names == {old.name, new.name, "student"}


def test_a_left_over_of_a_killed_linking_is_no_hindrance(workspace: Workspace) -> None:
    path = tiny_bundle(workspace.bundles)
    (workspace.bundles / ".student.next").symlink_to("nowhere")
    workspace.link("student", path)
    assert workspace.linked("student") == path


def test_a_link_to_nothing_means_no_bundle(workspace: Workspace) -> None:
    assert workspace.linked("student") is None
    workspace.bundles.mkdir()
    (workspace.bundles / "student").symlink_to("gone")
    assert workspace.linked("student") is None


def test_the_training_of_a_bundle_is_found_while_its_run_is_there(workspace: Workspace) -> None:
    assert workspace.training_of("a" * 64) is None
    for name, identity in (("one", "a" * 64), ("two", "b" * 64)):
        seal = workspace.runs / name / "seal"
        seal.mkdir(parents=True)
        (seal / SEALED).write_text(json.dumps({"id": identity}))
        (workspace.runs / name / "train").mkdir()
    train = workspace.runs / "two" / "train"
    assert workspace.training_of("b" * 64) == train
    assert workspace.training_of("c" * 64) is None
    train.rmdir()
    assert workspace.training_of("b" * 64) is None

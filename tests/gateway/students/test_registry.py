"""The registry on real files: hostile archives, damage, roles, what a killed process leaves."""

from __future__ import annotations

import functools
import gzip
import io
import os
import random
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.contract import archive, bundle
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Task
from gateway.errors import (
    BundleBomb,
    BundleCorrupt,
    BundleError,
    BundleMismatch,
    BundleMissing,
    BundleSlow,
    SettingsError,
)
from gateway.settings import environment_without_keys
from gateway.students.registry import ROLES, Registry, Roles
from gateway.students.rehearsal import Caps, rehearse, warm
from gateway.students.student import Student
from tests.factories import TASK, tiny_bundle
from tests.hostile import CORPUS, Parts, endless, entry, parts_of

_LONG_S = 240.0  # of the wall clock: a busy machine gives a process little of a core
# Address space above what Python and onnxruntime take at rest, and far below what "swells".
_CAPS = Caps(memory_bytes=4 * 2**30, cpu_s=20, wall_s=_LONG_S)
_REHEARSE = functools.partial(rehearse, environment=environment_without_keys(), caps=_CAPS)


def unchecked(_folder: Path) -> None:
    """No rehearsal: for tests of what comes before and after it."""


def registry(
    folder: Path, *, rehearse: Callable[[Path], None] = unchecked, most: int = 2**24
) -> Registry:
    return Registry(folder / "students", task=TASK.name, max_bytes=most, rehearse=rehearse)


def students_only(found: Bundle) -> None:
    if found.manifest.role != "student":
        raise BundleMismatch("not a student", mend="send a student")


def receive(into: Registry, folder: Path, content: bytes) -> Bundle:
    packed = folder / "sent"
    packed.write_bytes(content)
    return into.receive(packed, check=students_only)


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name, with their contents."""
    return {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in folder.rglob("*")
        if each.is_file()
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts_of(tiny_bundle(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_archive_is_refused_with_its_own_code_and_leaves_nothing(
    tmp_path: Path, tiny: Parts, name: str
) -> None:
    code, build = CORPUS[name]
    content = build(tiny)
    into = registry(tmp_path, rehearse=_REHEARSE)
    with pytest.raises(BundleError) as caught:
        receive(into, tmp_path, content)
    assert caught.value.code == code, caught.value
    assert caught.value.mend
    assert everything(tmp_path).keys() == {"sent"}
    assert into.names() == ()


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_every_form_of_an_archive_is_taken_in(tmp_path: Path, tiny: Parts, form: str) -> None:
    content = {"tar": tiny.tar(), "tar.gz": gzip.compress(tiny.tar()), "zip": tiny.zip()}[form]
    found = receive(registry(tmp_path, rehearse=_REHEARSE), tmp_path, content)
    assert found.path == tmp_path / "students" / TASK.name / tiny.folder
    assert parts_of(found.path) == tiny


def test_the_entry_of_the_folder_itself_is_no_file(tmp_path: Path, tiny: Parts) -> None:
    folder = entry(f"{tiny.folder}/", kind=tarfile.DIRTYPE)
    receive(registry(tmp_path), tmp_path, tiny.tar((folder, b"")))


def test_a_folder_that_is_packed_comes_out_as_it_was(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "bundles")
    link = tmp_path / "student"
    link.symlink_to(path)
    packed = io.BytesIO()
    archive.pack(link, packed)
    found = receive(registry(tmp_path), tmp_path, packed.getvalue())
    assert parts_of(found.path) == parts_of(path)


def test_a_bundle_above_the_limit_is_refused(tmp_path: Path, tiny: Parts) -> None:
    size = sum(map(len, tiny.files.values()))
    receive(registry(tmp_path, most=size), tmp_path, tiny.tar())
    with pytest.raises(BundleBomb):
        receive(registry(tmp_path / "other", most=size - 1), tmp_path, tiny.zip())


def _flips_are_refused(tmp_path: Path, tiny: Parts, count: int) -> None:
    chance = random.Random(7)
    into = registry(tmp_path)
    for number in range(count):
        name = sorted(tiny.files)[number % len(tiny.files)]
        content = bytearray(tiny.files[name])
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        flipped = Parts(tiny.folder, tiny.files | {name: bytes(content)})
        with pytest.raises(BundleError):
            receive(into, tmp_path, flipped.tar())
    assert into.names() == ()


def test_a_bundle_with_one_bit_changed_in_any_file_is_refused(tmp_path: Path, tiny: Parts) -> None:
    _flips_are_refused(tmp_path, tiny, 40)


@pytest.mark.soak
def test_a_thousand_bundles_with_one_bit_changed_are_refused(tmp_path: Path, tiny: Parts) -> None:
    _flips_are_refused(tmp_path, tiny, 1000)


def test_an_archive_with_any_byte_changed_gives_the_same_bundle_or_none(
    tmp_path: Path, tiny: Parts
) -> None:
    chance = random.Random(11)
    for whole in (tiny.tar(), gzip.compress(tiny.tar()), tiny.zip()):
        for number in range(20):
            content = bytearray(whole)
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            folder = tmp_path / f"{len(whole)}-{number}"
            folder.mkdir()
            try:
                found = receive(registry(folder), folder, bytes(content))
            except BundleError:
                assert everything(folder).keys() == {"sent"}
            else:
                assert parts_of(found.path) == tiny  # the byte was padding, or a date


def test_a_graph_that_never_ends_is_refused(tmp_path: Path, tiny: Parts) -> None:
    caps = Caps(memory_bytes=4 * 2**30, cpu_s=3, wall_s=_LONG_S)
    slow = functools.partial(rehearse, environment=environment_without_keys(), caps=caps)
    with pytest.raises(BundleSlow, match="3 s of a core"):
        receive(registry(tmp_path, rehearse=slow), tmp_path, endless(tiny).tar())
    assert everything(tmp_path).keys() == {"sent"}


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("another number of logits", r"shapes \(1, 4\) and \(1, 5\), not \(1, 5\) and \(1, 5\)"),
        ("answers that are no numbers", "not finite at 1 tokens"),
    ],
)
def test_what_only_a_run_tells_is_told_with_its_numbers(
    tmp_path: Path, tiny: Parts, name: str, match: str
) -> None:
    into = registry(tmp_path, rehearse=lambda folder: warm(Student(open_bundle(folder))))
    with pytest.raises(BundleMismatch, match=match):
        receive(into, tmp_path, CORPUS[name][1](tiny))


def test_bundles_are_listed_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    into = registry(tmp_path)
    came: list[str] = []
    for seed in (3, 1, 2):
        parts = parts_of(tiny_bundle(tmp_path / "bundles", seed=seed))
        found = receive(into, tmp_path, parts.tar())
        at = time.time() - 10 + len(came)
        os.utime(found.path, (at, at))
        came.append(parts.folder)
    assert into.names() == tuple(came)


def test_the_same_bundle_may_come_again(tmp_path: Path, tiny: Parts) -> None:
    into = registry(tmp_path)
    assert receive(into, tmp_path, tiny.tar()) == receive(into, tmp_path, tiny.zip())
    assert into.names() == (tiny.folder,)


def test_a_bundle_that_was_damaged_in_the_registry_is_mended_when_it_comes_again(
    tmp_path: Path, tiny: Parts
) -> None:
    into = registry(tmp_path)
    found = receive(into, tmp_path, tiny.tar())
    (found.path / bundle.CARD).write_bytes(b"damage")
    with pytest.raises(BundleCorrupt):
        open_bundle(into.find(found.name))
    receive(into, tmp_path, tiny.tar())
    assert parts_of(into.find(found.name)) == tiny


def test_a_bundle_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, tiny: Parts
) -> None:
    into = registry(tmp_path)
    with pytest.raises(BundleMissing, match=r"no bundle '\.\./\.\./secret'") as caught:
        into.find("../../secret")
    assert caught.value.mend == "add it, or name one of: (none)"
    receive(into, tmp_path, tiny.tar())
    with pytest.raises(BundleMissing) as caught:
        into.find("")
    assert caught.value.mend == f"add it, or name one of: {tiny.folder}"


def test_a_bundle_is_rehearsed_once_in_the_life_of_a_process(tmp_path: Path, tiny: Parts) -> None:
    seen: list[str] = []
    into = registry(tmp_path, rehearse=lambda folder: seen.append(folder.name))
    found = receive(into, tmp_path, tiny.tar())
    into.rehearse(found.path)
    assert seen == [tiny.folder]


def test_a_bundle_of_elsewhere_is_kept_as_a_copy(tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path / "bundles")
    link = tmp_path / "student"
    link.symlink_to(path)
    into = registry(tmp_path)
    kept = into.keep(link)
    shutil.rmtree(path)
    assert open_bundle(into.find(kept.name)).id == kept.id


def test_a_bundle_that_is_gone_cannot_be_kept(tmp_path: Path) -> None:
    into = registry(tmp_path)
    with pytest.raises(BundleMissing, match="is gone"):
        into.keep(tmp_path / "tickets-000000000000")
    assert everything(tmp_path) == {}


def test_what_a_killed_process_left_is_swept_when_it_is_old(tmp_path: Path, tiny: Parts) -> None:
    folder = tmp_path / "students" / TASK.name
    for name in (".staging-old", ".staging-new"):
        (folder / name / tiny.folder).mkdir(parents=True)
        (folder / name / tiny.folder / bundle.MANIFEST).write_bytes(b"half")
    long_ago = time.time() - 7200
    os.utime(folder / ".staging-old", (long_ago, long_ago))
    into = registry(tmp_path)
    assert into.names() == ()
    receive(into, tmp_path, tiny.tar())
    assert into.names() == (tiny.folder,)
    left = {each.name for each in folder.iterdir()}
    assert left == {".staging-new", tiny.folder}  # it may be at work in another process


def test_roles_are_read_as_they_were_written(tmp_path: Path) -> None:
    into = registry(tmp_path)
    assert into.roles() is None
    roles = Roles(configured="a-1", serving="b-2", previous="a-1")
    into.remember(roles)
    assert registry(tmp_path).roles() == roles
    assert {each.name for each in (tmp_path / "students" / TASK.name).iterdir()} == {ROLES}
    into.remember(None)
    assert into.roles() is None


def test_roles_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    into = registry(tmp_path)
    into.remember(Roles(configured="a-1", serving="b-2"))
    (tmp_path / "students" / TASK.name / ROLES).write_text('{"version": 2}')
    with pytest.raises(SettingsError, match=r"roles\.json cannot be read"):
        into.roles()


def test_a_registry_that_cannot_be_written_is_an_error(tmp_path: Path, tiny: Parts) -> None:
    (tmp_path / "students").write_text("a file")
    into = registry(tmp_path)
    with pytest.raises(SettingsError, match=r"registry\.path"):
        receive(into, tmp_path, tiny.tar())
    with pytest.raises(SettingsError, match=r"registry\.path"):
        into.remember(Roles(configured="a-1", serving="b-2"))


def test_a_task_has_its_own_folder(tmp_path: Path) -> None:
    other = Task(name="letters", heads=TASK.heads)
    parts = parts_of(tiny_bundle(tmp_path / "bundles", task=other))
    into = Registry(tmp_path / "students", task="letters", max_bytes=2**24, rehearse=unchecked)
    receive(into, tmp_path, parts.tar())
    assert registry(tmp_path).names() == ()
    assert into.names() == (parts.folder,)

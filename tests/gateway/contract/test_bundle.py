"""The bundle: written whole or not at all, opened only when every byte is as it was."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.contract import bundle
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Manifest
from gateway.errors import (
    BundleCorrupt,
    BundleError,
    BundleMismatch,
    BundleMissing,
    BundleUnsupported,
)
from tests.factories import tiny_bundle

FILES = ("CARD.md", "model.onnx", "tokenizer.json")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A bundle that nobody has touched."""
    return tiny_bundle(tmp_path / "bundles")


def parts(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    """What `write` needs to write the bundle again."""
    return open_bundle(path).manifest, {name: (path / name).read_bytes() for name in FILES}


def rewritten(path: Path, manifest: Manifest) -> Path:
    """The bundle with this manifest beside its files, under the name that belongs to it."""
    raw = bundle.canonical(manifest)
    (path / "manifest.json").write_bytes(raw)
    name = bundle.folder_name(manifest.task.name, hashlib.sha256(raw).hexdigest())
    return path.rename(path.parent / name)


def test_the_id_is_the_hash_of_the_manifest_and_names_the_folder(whole: Path) -> None:
    opened = open_bundle(whole)
    assert opened.id == hashlib.sha256((whole / "manifest.json").read_bytes()).hexdigest()
    assert opened.id == bundle.bundle_id(opened.manifest)
    assert whole.name == opened.name == f"tickets-{opened.id[:12]}"


def test_an_opened_bundle_holds_the_bytes_that_were_hashed(whole: Path) -> None:
    opened = open_bundle(whole)
    assert opened.model == (whole / "model.onnx").read_bytes()
    assert opened.tokenizer == (whole / "tokenizer.json").read_bytes()
    assert opened.size == sum(file.stat().st_size for file in whole.iterdir())


def test_the_manifest_has_one_form_with_sorted_keys_and_no_spaces(whole: Path) -> None:
    manifest = open_bundle(whole).manifest
    task = manifest.task.model_copy(
        update={"heads": (manifest.task.heads[0].model_copy(update={"name": "Zürich"}),)}
    )
    raw = bundle.canonical(manifest.model_copy(update={"task": task}))
    assert b'"task":{"heads":[{"kind":"choice","labels":["refund","fraud","other"],' in raw
    assert '"name":"Zürich"'.encode() in raw  # UTF-8 itself, no \\u escapes


def test_entries_say_name_hash_and_size_in_the_order_of_names() -> None:
    b, a = bundle.entries({"b": b"", "a": b"abc"})[::-1]
    assert (a.name, a.size) == ("a", 3)
    assert a.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (b.name, b.size) == ("b", 0)


@pytest.mark.parametrize("name", ["manifest.json", *FILES])
def test_a_change_of_any_byte_of_any_file_is_refused(whole: Path, name: str) -> None:
    file = whole / name
    original = file.read_bytes()
    places = range(0, len(original), max(1, len(original) // 60))
    for place in places:
        changed = bytearray(original)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(BundleError):
            open_bundle(whole)
    file.write_bytes(original)
    assert isinstance(open_bundle(whole), Bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_refused_with_both_sizes(whole: Path, name: str) -> None:
    file = whole / name
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        BundleCorrupt, match=f"{name}: {size - 1} bytes, the manifest says {size}"
    ) as refused:
        open_bundle(whole)
    assert "build the bundle again" in refused.value.mend


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(whole: Path, name: str) -> None:
    (whole / name).unlink()
    with pytest.raises(BundleCorrupt, match=f"missing {name}"):
        open_bundle(whole)


def test_a_required_file_that_is_not_listed_is_refused(whole: Path) -> None:
    manifest = open_bundle(whole).manifest
    fewer = tuple(each for each in manifest.files if each.name != "CARD.md")
    (whole / "CARD.md").unlink()
    with pytest.raises(BundleCorrupt, match=r"missing CARD\.md"):
        open_bundle(rewritten(whole, manifest.model_copy(update={"files": fewer})))


@pytest.mark.parametrize("name", ["notes.txt", ".hidden"])
def test_a_file_that_is_not_listed_is_refused_by_name(whole: Path, name: str) -> None:
    (whole / name).touch()
    with pytest.raises(BundleCorrupt, match=f"{name} is not in the manifest"):
        open_bundle(whole)


@pytest.mark.parametrize("name", ["manifest.json", *FILES])
def test_a_link_in_place_of_a_file_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / name
    (whole / name).rename(elsewhere)
    (whole / name).symlink_to(elsewhere)
    with pytest.raises(BundleCorrupt, match=name):
        open_bundle(whole)


def test_a_folder_in_place_of_a_file_is_refused(whole: Path) -> None:
    (whole / "model.onnx").unlink()
    (whole / "model.onnx").mkdir()
    with pytest.raises(BundleCorrupt, match=r"model\.onnx: not a plain file"):
        open_bundle(whole)


@pytest.mark.timeout(20)
def test_a_named_pipe_in_place_of_a_file_is_refused_and_does_not_block(whole: Path) -> None:
    (whole / "model.onnx").unlink()
    os.mkfifo(whole / "model.onnx")
    with pytest.raises(BundleCorrupt, match=r"model\.onnx: not a plain file"):
        open_bundle(whole)


def test_a_file_above_the_limit_is_refused_unread(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_FILE_LIMIT", 10)
    with pytest.raises(BundleCorrupt, match="not a plain file of a bundle"):
        open_bundle(whole)


def test_a_bundle_under_another_name_is_refused(whole: Path) -> None:
    renamed = whole.rename(whole.parent / "tickets-000000000000")
    with pytest.raises(BundleCorrupt, match=f"its manifest is that of {whole.name}"):
        open_bundle(renamed)


def test_a_link_to_a_whole_bundle_is_followed(whole: Path) -> None:
    link = whole.parent / "student"
    link.symlink_to(whole.name)
    assert open_bundle(link).id == open_bundle(whole).id


@pytest.mark.parametrize("place", ["nowhere", "empty", "bundles"])
def test_a_place_without_a_bundle_says_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleMissing, match=f"there is no bundle at .*{place}") as refused:
        open_bundle(tmp_path / place)
    assert "manifest.json" in refused.value.mend


@pytest.mark.parametrize("version", ["2", "null", '"1"', "0"])
def test_another_schema_version_is_named(whole: Path, version: str) -> None:
    manifest = whole / "manifest.json"
    raw = manifest.read_text().replace('"schema_version":1', f'"schema_version":{version}')
    manifest.write_text(raw)
    with pytest.raises(BundleUnsupported, match="this version reads 1"):
        open_bundle(whole)


@pytest.mark.parametrize("version", ["true", "1.0"])
def test_a_schema_version_that_is_merely_equal_to_1_is_refused(whole: Path, version: str) -> None:
    manifest = whole / "manifest.json"
    raw = manifest.read_text().replace('"schema_version":1', f'"schema_version":{version}')
    manifest.write_text(raw)
    with pytest.raises(BundleCorrupt):
        open_bundle(whole)


@pytest.mark.parametrize("raw", [b"[]", b"7", b"null"])
def test_a_manifest_that_is_no_object_is_refused(whole: Path, raw: bytes) -> None:
    (whole / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleUnsupported, match="schema version None"):
        open_bundle(whole)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_a_manifest_that_is_not_json_is_refused(whole: Path, raw: bytes) -> None:
    (whole / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleCorrupt, match=r"manifest\.json is not JSON"):
        open_bundle(whole)


def test_a_wrong_value_is_named_by_its_place(whole: Path) -> None:
    manifest = whole / "manifest.json"
    content: dict[str, Any] = json.loads(manifest.read_bytes())
    content["graph"]["precision"] = "int3"
    manifest.write_text(json.dumps(content))
    with pytest.raises(BundleCorrupt, match=r"graph\.precision: Input should be 'fp32' or 'int8'"):
        open_bundle(whole)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_manifest_in_another_form_is_refused(whole: Path, indent: int | None) -> None:
    manifest = whole / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()), indent=indent))
    with pytest.raises(BundleCorrupt, match="not in its canonical form"):
        open_bundle(whole)


def test_a_tokenizer_of_another_model_is_refused(whole: Path, tmp_path: Path) -> None:
    manifest, files = parts(whole)
    files["tokenizer.json"] = files["tokenizer.json"] + b" "
    swapped = manifest.model_copy(update={"files": bundle.entries(files)})
    path = bundle.write(swapped, files, tmp_path)
    with pytest.raises(BundleMismatch, match="not the one that the model was trained with"):
        open_bundle(path)


def test_writing_gives_the_same_bundle_again(whole: Path, tmp_path: Path) -> None:
    manifest, files = parts(whole)
    path = bundle.write(manifest, files, tmp_path / "deep" / "folder")
    assert path == tmp_path / "deep" / "folder" / whole.name
    assert open_bundle(path).id == open_bundle(whole).id
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_an_equal_bundle_that_is_there_is_kept(whole: Path) -> None:
    before = (whole / "model.onnx").stat()
    manifest, files = parts(whole)
    assert bundle.write(manifest, files, whole.parent) == whole
    assert (whole / "model.onnx").stat().st_ino == before.st_ino


def test_a_spoilt_bundle_that_is_there_is_not_taken_for_an_equal_one(whole: Path) -> None:
    manifest, files = parts(whole)
    (whole / "CARD.md").write_text("other")
    with pytest.raises(BundleCorrupt, match=r"CARD\.md"):
        bundle.write(manifest, files, whole.parent)


@pytest.mark.parametrize(
    "spoil", [{"CARD.md": b"other"}, {"extra.txt": b"x"}], ids=["other bytes", "one more"]
)
def test_files_that_the_manifest_does_not_list_are_not_written(
    whole: Path, tmp_path: Path, spoil: dict[str, bytes]
) -> None:
    manifest, files = parts(whole)
    with pytest.raises(BundleMismatch, match="not those of the manifest"):
        bundle.write(manifest, files | spoil, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_bundle_without_a_card_is_not_written(whole: Path, tmp_path: Path) -> None:
    manifest, files = parts(whole)
    del files["CARD.md"]
    with pytest.raises(BundleMismatch, match=r"a bundle needs CARD\.md"):
        bundle.write(
            manifest.model_copy(update={"files": bundle.entries(files)}), files, tmp_path / "new"
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_write_that_fails_anywhere_leaves_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    manifest, files = parts(whole)
    parent = tmp_path / "new"
    calls = 0

    def sync(_descriptor: int) -> None:
        nonlocal calls
        calls += 1
        assert [each for each in parent.iterdir() if not each.name.startswith(".")] == []
        if calls == failing:
            raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match="the disk is full"):
        bundle.write(manifest, files, parent)
    assert calls == failing  # 3 files, the manifest and the folder go to disk before the name
    assert list(parent.iterdir()) == []

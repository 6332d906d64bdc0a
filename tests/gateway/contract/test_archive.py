"""Archives of bundles, damaged in every place: refused by name, or as good as whole."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from gateway.contract.archive import unpack
from gateway.errors import BundleArchive, BundleBomb, BundleError
from tests.factories import tiny_bundle
from tests.hostile import Parts, entry, parts_of

MOST = 2**30  # bytes, as registry.max_bytes
EACH = 7  # places from one damaged byte to the next, in what describes an archive


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts_of(tiny_bundle(tmp_path_factory.mktemp("tiny")))


def unpacked(content: bytes, parent: Path) -> Path:
    """The folder of a bundle that was packed so."""
    parent.mkdir()
    packed = parent / "archive"
    packed.write_bytes(content)
    return unpack(packed, parent, most=MOST)


def mixed(parts: Parts, first: int) -> bytes:
    """A zip archive whose first file is compressed in one manner, and the others not at all."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number, (name, content) in enumerate(parts.files.items()):
            manner = first if number == 0 else zipfile.ZIP_STORED
            archive.writestr(f"{parts.folder}/{name}", content, compress_type=manner)
    return target.getvalue()


def test_a_zip_may_be_stored_or_deflated_and_nothing_else(tmp_path: Path, tiny: Parts) -> None:
    for manner in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert parts_of(unpacked(mixed(tiny, manner), tmp_path / str(manner))) == tiny
    for manner in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with pytest.raises(BundleArchive, match=f"compressed in manner {manner}") as caught:
            unpacked(mixed(tiny, manner), tmp_path / str(manner))
        assert caught.value.mend == "store or deflate it, as zip archives do by default"


@pytest.mark.parametrize("manner", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_zip_is_refused_and_never_a_mistake_of_ours(
    tmp_path: Path, tiny: Parts, manner: int
) -> None:
    """Its directory and its first file, the header and the contents."""
    whole = mixed(tiny, manner)
    first = len(tiny.files["CARD.md"]) + 100
    directory = whole.index(b"PK\x01\x02")
    places = [*range(first), *range(directory, len(whole), EACH)]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 0xFF
        with contextlib.suppress(BundleError):  # nothing else may be raised
            unpacked(bytes(content), tmp_path / str(place))


@pytest.mark.parametrize("form", ["tar", "gzip"])
def test_a_damaged_tar_is_refused_and_never_a_mistake_of_ours(
    tmp_path: Path, tiny: Parts, form: str
) -> None:
    whole = tiny.tar() if form == "tar" else gzip.compress(tiny.tar())
    for place in range(0, 1024, EACH):
        content = bytearray(whole)
        content[place] ^= 0xFF
        with contextlib.suppress(BundleError):
            unpacked(bytes(content), tmp_path / str(place))


def test_the_header_of_a_file_may_hold_what_archives_write_there(
    tmp_path: Path, tiny: Parts
) -> None:
    files = {name: content for name, content in tiny.files.items() if name != "CARD.md"}
    info = entry(f"{tiny.folder}/CARD.md", tiny.files["CARD.md"])
    info.pax_headers = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.note": "x" * 4096}
    content = Parts(tiny.folder, files).tar((info, tiny.files["CARD.md"]))
    assert parts_of(unpacked(content, tmp_path / "one")) == tiny


def test_what_stands_before_a_file_is_never_held_as_a_whole(tmp_path: Path) -> None:
    """32 MiB of name, of which the reader of tars makes three copies."""
    header = entry("x", kind=tarfile.GNUTYPE_LONGNAME)
    header.size = 32 * 2**20
    packed = tmp_path / "archive"
    with packed.open("wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(33 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(BundleBomb, match="more than 16384 bytes"):
            unpack(packed, tmp_path, most=MOST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20

"""A bundle as one file: a tar (plain or gzip) or zip archive of its folder.

    tickets-0123456789ab/
    tickets-0123456789ab/manifest.json
    tickets-0123456789ab/...

`unpack` takes nothing on trust: it writes plain files of the names that a bundle has, below a
folder of the name that a bundle has, and refuses everything else with a code of its own. What the
files say is not its business: `open_bundle` verifies them.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Literal

from gateway.contract.bundle import MANIFEST, OPTIONAL, REQUIRED, sync_folder
from gateway.errors import (
    BundleArchive,
    BundleBomb,
    BundleDuplicate,
    BundleFile,
    BundleLink,
    BundlePath,
    BundleSpecial,
)

FILES = REQUIRED | OPTIONAL | {MANIFEST}

_ENTRIES = 16  # a bundle has one folder and four or five files
_RATIO = 100  # unpacked bytes for each packed one; tables of weights give 1 to 2, manifests 10
_FREE = 4 * 2**20  # bytes that may unpack at any ratio: tar pads small files with zeros
# Bytes of what stands before one file in a tar: a name takes 1 KiB. The library holds them all at
# once, and looks through them in a time that grows with their square: here, half a second.
_TAR_HEADER = 1 << 14
_CHUNK = 1 << 20  # bytes
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*-[0-9a-f]{12}")
_PLAIN = re.compile(r"[A-Za-z0-9_.\-/]{1,300}")
_GZIP_START = b"\x1f\x8b"
_ZIP_START = b"PK\x03\x04"
_ZIP_END = b"PK\x05\x06"
_ZIP_END_SIZE = 22  # bytes, without a comment
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP_ENTRY = 512  # bytes in a zip's directory; names are short here
_ENCRYPTED = 0x1  # flag of a zip entry
# Other compressions unpack as far, and fail on damage in manners of their own.
_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_SEND = "send a tar or zip archive of the bundle's folder, as it was sealed"

_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError,
    RecursionError, ValueError, OverflowError,
)  # fmt: skip  # what the readers of archives raise on bytes that are not what they say


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of an archive, of either kind. `content` reads it; None: not a plain file."""

    name: str
    kind: Literal["file", "folder", "link", "special"]
    content: IO[bytes] | None


def unpack(archive: Path, parent: Path, *, most: int) -> Path:
    """Write the bundle of an archive below `parent`, and return its folder.

    `most` bounds the unpacked bytes. Raises BundleArchive, BundlePath, BundleLink, BundleSpecial,
    BundleDuplicate, BundleFile or BundleBomb; what was written till then stays in `parent`, and
    nothing is ever written anywhere else.
    """
    packed = archive.stat().st_size
    left = min(most, max(_FREE, packed * _RATIO))
    target: Path | None = None
    seen: set[tuple[str, str]] = set()
    with archive.open("rb") as source, _opened(source, left) as entries:
        for entry in entries:
            folder, name = _placed(entry)
            if (folder, name) in seen:  # this and the known names bound the number of entries
                raise BundleDuplicate(f"{_shown(entry.name)} stands there twice", mend=_SEND)
            seen.add((folder, name))
            if target is None:
                target = parent / folder
                target.mkdir()
            if folder != target.name:
                raise BundlePath(
                    f"two folders, {target.name} and {_shown(folder)}", mend="send one bundle"
                )
            if entry.content is not None:
                left -= _copy(entry.content, target / name, most=left)
    if target is None:
        raise BundleArchive("the archive is empty", mend=_SEND)
    sync_folder(target)
    return target


def pack(folder: Path, target: BinaryIO) -> None:
    """Write the plain tar archive of a bundle's folder; links to the folder are followed."""
    whole = folder.resolve()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in present(whole):
            archive.add(whole / name, arcname=f"{whole.name}/{name}", recursive=False)


def present(folder: Path) -> list[str]:
    """The names of a bundle's files: all that it must have, and those it may have that are there.

    A link counts as there, so that who copies or packs it meets it and refuses.
    """
    return sorted(name for name in FILES if name not in OPTIONAL or os.path.lexists(folder / name))


@contextmanager
def _opened(source: BinaryIO, left: int) -> Iterator[Iterator[_Entry]]:
    """The entries of an archive, of which at most `left` bytes are read."""
    start = source.read(4)
    source.seek(0)
    if start == _ZIP_START:
        _check_directory(source)
        with _readable():
            zipped = zipfile.ZipFile(source)
        with zipped:
            yield _zip_entries(zipped)
        return
    stream = gzip.GzipFile(fileobj=source) if start[:2] == _GZIP_START else source
    # As a stream: it never seeks, so that no header can lead the reader backwards.
    metered = _Metered(stream, left + _FREE)
    with _readable(), metered.header():  # it reads the first one at once
        tar = tarfile.open(fileobj=metered, mode="r|")  # noqa: SIM115  closed just below
    with tar:
        yield _tar_entries(tar, metered)


@contextmanager
def _readable() -> Iterator[None]:
    """Whatever a reader of archives raises becomes BundleArchive."""
    try:
        yield
    except _DAMAGED as error:
        raise BundleArchive(f"the archive cannot be read: {error}", mend=_SEND) from error


def _tar_entries(archive: tarfile.TarFile, metered: _Metered) -> Iterator[_Entry]:
    while True:
        with _readable():
            with metered.header():
                member = archive.next()
            if member is None:
                return
            plain = member.isreg() and not member.issparse() and member.size >= 0
            content = archive.extractfile(member) if plain else None
        if member.issym() or member.islnk():
            yield _Entry(member.name, "link", None)
        elif content is None:
            yield _Entry(member.name, "folder" if member.isdir() else "special", None)
        else:
            yield _Entry(member.name, "file", content)


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in archive.infolist():
        name, mode = info.orig_filename, info.external_attr >> 16
        if info.flag_bits & _ENCRYPTED:
            raise BundleArchive(f"{_shown(name)} is encrypted", mend=_SEND)
        if info.compress_type not in _COMPRESSIONS:
            raise BundleArchive(
                f"{_shown(name)} is compressed in manner {info.compress_type}",
                mend="store or deflate it, as zip archives do by default",
            )
        if stat.S_ISLNK(mode):
            yield _Entry(name, "link", None)
        elif info.is_dir():
            yield _Entry(name, "folder", None)
        elif stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
            yield _Entry(name, "special", None)
        else:
            with _readable():
                content = archive.open(info)
            with content:
                yield _Entry(name, "file", content)


def _check_directory(source: BinaryIO) -> None:
    """Refuse a zip archive whose directory is large before the library reads it as a whole."""
    size = source.seek(0, io.SEEK_END)
    source.seek(max(0, size - _ZIP_END_SIZE - 20))
    tail = source.read()
    end = tail[-_ZIP_END_SIZE:]
    source.seek(0)
    if end[:4] != _ZIP_END or end[-2:] != b"\0\0" or tail[:4] == _ZIP64_LOCATOR:
        raise BundleArchive("the archive cannot be read: not a plain zip archive", mend=_SEND)
    entries, directory = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if entries > _ENTRIES or directory > _ENTRIES * _ZIP_ENTRY:
        raise BundleBomb(f"more than {_ENTRIES} entries", mend=_SEND)


def _placed(entry: _Entry) -> tuple[str, str]:
    """The bundle's folder and the file's name that an entry stands for; no name: the folder."""
    shown = _shown(entry.name)
    parts = entry.name.removeprefix("./").rstrip("/").split("/")
    if not _PLAIN.fullmatch(entry.name) or any(part in {"", ".", ".."} for part in parts):
        raise BundlePath(f"{shown} is no name within a bundle", mend=_SEND)
    if entry.kind == "link":
        raise BundleLink(f"{shown} is a link", mend="send the files themselves")
    if entry.kind == "special":
        raise BundleSpecial(f"{shown} is no plain file", mend=_SEND)
    folder, *rest = parts
    if not _FOLDER.fullmatch(folder):
        raise BundlePath(f"{shown} is not in a bundle's folder", mend=_SEND)
    if len(rest) > 1 or (entry.kind == "folder") is bool(rest):
        raise BundlePath(f"{shown}: a bundle is one folder of files", mend=_SEND)
    if rest and rest[0] not in FILES:
        raise BundleFile(
            f"{shown} is no file of a bundle", mend=f"a bundle has {', '.join(sorted(FILES))}"
        )
    return folder, rest[0] if rest else ""


def _copy(source: IO[bytes], target: Path, *, most: int) -> int:
    """Write a new file, and give its size; it is counted, whatever the archive says of it."""
    written = 0
    with target.open("xb") as file:
        while True:
            with _readable():
                chunk = source.read(_CHUNK)
            if not chunk:
                break
            written += len(chunk)
            if written > most:
                raise BundleBomb(
                    "the archive unpacks to more than a bundle may have",
                    mend="send a smaller bundle, or raise registry.max_bytes",
                )
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return written


def _shown(name: str) -> str:
    return ascii(name[:80])


class _Metered(io.RawIOBase):
    """A stream of which only so much is ever read, headers and padding included."""

    def __init__(self, stream: BinaryIO | gzip.GzipFile, left: int) -> None:
        self._stream = stream
        self._left = left
        self._header: int | None = None  # bytes that are left to the header being read

    @contextmanager
    def header(self) -> Iterator[None]:
        """While it lasts, only a header is read. It bounds what the reader of a tar holds."""
        self._header = _TAR_HEADER
        yield
        self._header = None

    def readable(self) -> bool:
        """It is read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into `buffer`. Raises BundleBomb."""
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._header is not None:
            self._header -= len(data)
            if self._header < 0:
                raise BundleBomb(
                    f"what stands before a file has more than {_TAR_HEADER} bytes", mend=_SEND
                )
        if self._left < 0:
            raise BundleBomb(
                "the archive unpacks to more than a bundle may have",
                mend="send a smaller bundle, or raise registry.max_bytes",
            )
        buffer[: len(data)] = data
        return len(data)

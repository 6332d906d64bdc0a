"""The student bundle: an immutable folder named by its content.

    <task>-<first 12 digits of the bundle id>/
        manifest.json     what is said about the model; its SHA-256 is the bundle id
        model.onnx        one self-contained file
        tokenizer.json    Hugging Face tokenizers format
        CARD.md           the same for people
        domain.f32        optional: what its texts look like (gateway.contract.domain)

`write` is atomic: a reader sees a whole bundle or none. `open_bundle` trusts nothing: it hashes
every file, looks through the structure of the graph, and the bytes that were hashed are the bytes
that are later loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.contract import graph
from gateway.contract.manifest import SCHEMA_VERSION, FileEntry, Manifest
from gateway.errors import (
    BundleCorrupt,
    BundleGolden,
    BundleMismatch,
    BundleMissing,
    BundleUnsupported,
)

MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
CARD = "CARD.md"
DOMAIN = "domain.f32"
REQUIRED = frozenset({MODEL, TOKENIZER, CARD})
OPTIONAL = frozenset({DOMAIN})

_MANIFEST_LIMIT = 16 * 2**20  # bytes; golden vectors and reports stay far below
_FILE_LIMIT = 2 * 2**30  # bytes; protobuf's own limit for one ONNX file
_REBUILD = "build the bundle again, or copy it again from where it was whole"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened and verified bundle: the manifest and the very bytes that were hashed."""

    id: str
    path: Path
    manifest: Manifest
    model: bytes
    tokenizer: bytes
    domain: bytes | None = None

    @property
    def name(self) -> str:
        """The folder name a bundle of this content has."""
        return folder_name(self.manifest.task.name, self.id)

    @property
    def size(self) -> int:
        """Bytes of all files, manifest included."""
        return sum(entry.size for entry in self.manifest.files) + len(canonical(self.manifest))


def canonical(manifest: Manifest) -> bytes:
    """The one JSON form of a manifest: sorted keys, no spaces, UTF-8."""
    return _canonical_form(manifest.model_dump(mode="json"))


def bundle_id(manifest: Manifest) -> str:
    """SHA-256 of the canonical manifest, which holds the SHA-256 of every file."""
    return hashlib.sha256(canonical(manifest)).hexdigest()


def folder_name(task: str, identity: str) -> str:
    """How the folder of a bundle is called."""
    return f"{task}-{identity[:12]}"


def entries(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    """File contents -> the entries of a manifest, in the order of their names."""
    return tuple(
        FileEntry(name=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        for name, content in sorted(files.items())
    )


def write(manifest: Manifest, files: Mapping[str, bytes], parent: Path) -> Path:
    """Write a bundle below `parent` and return its folder; an equal one that is there is kept.

    Raises BundleMismatch when `files` are not what the manifest lists. Nothing is left behind
    when writing fails or the process is killed, except a hidden temporary folder.
    """
    if entries(files) != tuple(sorted(manifest.files, key=lambda entry: entry.name)):
        raise BundleMismatch("the files to write are not those of the manifest", mend=_REBUILD)
    if REQUIRED - files.keys():
        missing = ", ".join(sorted(REQUIRED - files.keys()))
        raise BundleMismatch(f"a bundle needs {missing}", mend=_REBUILD)
    target = parent / folder_name(manifest.task.name, bundle_id(manifest))
    parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        open_bundle(target)
        return target
    staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=parent))
    try:
        for name, content in [*files.items(), (MANIFEST, canonical(manifest))]:
            with (staging / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        staging.chmod(0o755)
        sync_folder(staging)
        staging.rename(target)
        sync_folder(parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def open_bundle(path: Path) -> Bundle:
    """Read and verify a bundle: names, sizes, hashes, schema, tokenizer; links to it are followed.

    Raises BundleMissing, BundleCorrupt, BundleMismatch, BundleGolden or BundleUnsupported, and
    BundleGraph, BundleExternalData or BundleOperator for an ONNX file that is not to be loaded.
    """
    if not (path / MANIFEST).is_file():
        raise BundleMissing(
            f"there is no bundle at {path}", mend="name a folder that holds a manifest.json"
        )
    raw = _read(path, MANIFEST, limit=_MANIFEST_LIMIT)
    manifest = _parse(raw, path)
    listed = {entry.name: entry for entry in manifest.files}
    present = {entry.name for entry in path.iterdir()} - {MANIFEST}
    if missing := sorted((REQUIRED | listed.keys()) - present):
        raise BundleCorrupt(f"{path}: missing {', '.join(missing)}", mend=_REBUILD)
    if extra := sorted(present - listed.keys()):
        raise BundleCorrupt(
            f"{path}: {', '.join(extra)} is not in the manifest",
            mend="a bundle holds only what its manifest lists: remove it, or build again",
        )
    contents = {name: _verified(path, entry) for name, entry in sorted(listed.items())}
    if listed[TOKENIZER].sha256 != manifest.tokenizer_sha256:
        raise BundleMismatch(
            f"{path}: the tokenizer is not the one that the model was trained with",
            mend=_REBUILD,
        )
    if _canonical_form(json.loads(raw)) != raw:  # of the file, not of today's defaults
        raise BundleCorrupt(f"{path}: {MANIFEST} is not in its canonical form", mend=_REBUILD)
    identity = hashlib.sha256(raw).hexdigest()
    name = folder_name(manifest.task.name, identity)
    if path.resolve().name != name:  # nothing else vouches for the manifest itself
        raise BundleCorrupt(
            f"{path}: the folder is called {path.resolve().name}, its manifest is that of {name}",
            mend="a bundle's folder is named by its content: copy it again under its own name",
        )
    if (manifest.domain is None) is (DOMAIN in contents):
        raise BundleMismatch(
            f"{path}: {DOMAIN} and the manifest's domain belong together, and one is missing",
            mend=_REBUILD,
        )
    graph.structure(contents[MODEL], where=str(path / MODEL))
    return Bundle(
        id=identity,
        path=path,
        manifest=manifest,
        model=contents[MODEL],
        tokenizer=contents[TOKENIZER],
        domain=contents.get(DOMAIN),
    )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _canonical_form(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _parse(raw: bytes, path: Path) -> Manifest:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{path}: {MANIFEST} is not JSON: {error}", mend=_REBUILD) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleUnsupported(
            f"{path}: schema version {version!r}; this version reads {SCHEMA_VERSION}",
            mend="use the version of Understudy that wrote it, or build the bundle again",
        )
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "manifest"
        golden = first["loc"][:1] == ("golden",) and first["type"] == "finite_number"
        kind = BundleGolden if golden else BundleCorrupt
        raise kind(f"{path}: {where}: {first['msg']}", mend=_REBUILD) from error


def _verified(path: Path, entry: FileEntry) -> bytes:
    content = _read(path, entry.name, limit=_FILE_LIMIT)
    if len(content) != entry.size:
        raise BundleCorrupt(
            f"{path / entry.name}: {len(content)} bytes, the manifest says {entry.size}",
            mend=_REBUILD,
        )
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleCorrupt(
            f"{path / entry.name}: its bytes are not those that the manifest lists", mend=_REBUILD
        )
    return content


def _read(path: Path, name: str, *, limit: int) -> bytes:
    """Read a plain file of the bundle; links and devices are refused."""
    try:
        # Without O_NONBLOCK a named pipe would hold the reader for ever.
        descriptor = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleCorrupt(f"{path / name}: {error.strerror}", mend=_REBUILD) from error
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_size > limit:
        os.close(descriptor)
        raise BundleCorrupt(f"{path / name}: not a plain file of a bundle", mend=_REBUILD)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()

"""The bundles of one task on disk, and which of them serves.

    <registry.path>/<task>/
        roles.json                  who serves, and who did before
        tickets-0123456789ab/       bundles, each as it was sealed
        .staging-...                what is being unpacked; removed whatever comes of it

A bundle is unpacked, verified and rehearsed aside and then moved here as a whole, so that a reader
sees it whole or not at all. roles.json is replaced as a whole likewise, after the bundles that it
names are here. The registry starts no student: a seat does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.contract import archive
from gateway.contract.bundle import MANIFEST, Bundle, open_bundle, sync_folder
from gateway.contract.manifest import Name
from gateway.errors import BundleError, BundleMissing, SettingsError

ROLES = "roles.json"

_STAGING = ".staging-"
_STALE_S = 3600.0  # a staging folder so old was left behind by a process that was killed


class Roles(BaseModel):
    """Who serves a task. Every bundle that is named lies in the registry; `no_student` is none.

    `configured` is the bundle that the settings named when this was written: where they name
    another one now, they win.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    configured: Name
    serving: Name
    previous: Name | None = None


class Registry:
    """The place of one task's bundles. All of it blocks; may be called from several threads.

    `rehearse` is given the folder of a bundle that is to be added, and raises when it is not fit.
    """

    def __init__(
        self, path: Path, *, task: str, max_bytes: int, rehearse: Callable[[Path], None]
    ) -> None:
        self.task = task
        self.max_bytes = max_bytes
        self._folder = path / task
        self._rehearse = rehearse
        # Nothing changes about a bundle and this host while this process lives.
        self._rehearsed: set[str] = set()

    def find(self, name: str) -> Path:
        """The folder of a bundle that is here. Raises BundleMissing."""
        known = self.names()
        if name not in known:
            raise BundleMissing(
                f"{self.task} has no bundle {name[:120]!r}",
                mend=f"add it, or name one of: {', '.join(known) or '(none)'}",
            )
        return self._folder / name

    def names(self) -> tuple[str, ...]:
        """The bundles that are here, in the order in which they came."""
        if not self._folder.is_dir():
            return ()
        found = [each for each in self._folder.iterdir() if (each / MANIFEST).is_file()]
        here = [each for each in found if not each.name.startswith(".")]
        return tuple(each.name for each in sorted(here, key=_arrival))

    def receive(self, packed: Path, *, check: Callable[[Bundle], None]) -> Bundle:
        """Unpack, verify, `check` and rehearse an archive, and take its bundle in.

        Raises what `check` raises, or an error of the BundleError family; nothing is left of the
        archive then.
        """
        with self.staging() as staging:
            folder = archive.unpack(packed, staging, most=self.max_bytes)
            bundle = open_bundle(folder)
            check(bundle)
            self.rehearse(folder)
            return self._admit(bundle)

    def keep(self, folder: Path) -> Bundle:
        """Take in a copy of a bundle that lies elsewhere; `folder` may be a link to it."""
        whole = folder.resolve()
        with self.staging() as staging:
            target = staging / whole.name
            target.mkdir()
            for name in archive.present(whole):
                _copy(whole / name, target / name)
            sync_folder(target)
            return self._admit(open_bundle(target))

    def rehearse(self, folder: Path) -> None:
        """Rehearse a bundle, unless this process has seen it pass."""
        name = folder.resolve().name
        if name not in self._rehearsed:
            self._rehearse(folder)
            self._rehearsed.add(name)

    def roles(self) -> Roles | None:
        """What roles.json says; None where nothing was ever changed. Raises SettingsError."""
        path = self._folder / ROLES
        try:
            return Roles.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise SettingsError(
                f"{path} cannot be read: {error}",
                mend="remove it: the bundle that the settings name serves then",
            ) from error

    def remember(self, roles: Roles | None) -> None:
        """Replace roles.json, durably; None removes it. Raises SettingsError."""
        path = self._folder / ROLES
        try:
            if roles is None:
                path.unlink(missing_ok=True)
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=self._folder, prefix=".roles-", delete=False
            ) as new:
                new.write(roles.model_dump_json(indent=2).encode() + b"\n")
                new.flush()
                os.fsync(new.fileno())
            Path(new.name).replace(path)
            sync_folder(self._folder)
        except OSError as error:
            raise _unwritable(path, error) from error

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A private folder on the registry's own disk, gone afterwards. Raises SettingsError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self._folder))
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        try:
            yield folder
        except OSError as error:  # a full disk, mostly
            raise _unwritable(folder, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _admit(self, bundle: Bundle) -> Bundle:
        """Move a verified bundle from staging to its place; a damaged one that is there gives way.

        What serves is not disturbed: it was loaded from bytes.
        """
        target = self._folder / bundle.name
        try:
            return open_bundle(target)
        except BundleError:
            shutil.rmtree(target, ignore_errors=True)
        try:
            bundle.path.rename(target)
        except OSError:
            return open_bundle(target)  # another process was faster with the same bundle
        sync_folder(self._folder)
        return replace(bundle, path=target)

    def _sweep(self) -> None:
        """Remove what a process that was killed has left."""
        for each in self._folder.glob(f"{_STAGING}*"):
            try:
                stale = each.stat().st_mtime < time.time() - _STALE_S
            except FileNotFoundError:
                continue  # another process has just finished with it
            if stale:
                shutil.rmtree(each, ignore_errors=True)


@contextmanager
def remembered(wanted: Iterable[tuple[Registry, Roles]]) -> Iterator[None]:
    """Write the roles of several tasks down; where one cannot, or what follows fails, those before.

    Raises SettingsError.
    """
    with ExitStack() as undo:
        for registry, roles in wanted:
            undo.callback(registry.remember, registry.roles())
            registry.remember(roles)
        yield
        undo.pop_all()


def _arrival(folder: Path) -> tuple[float, str]:
    return folder.stat().st_mtime, folder.name


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as old, target.open("xb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())
    except FileNotFoundError as error:
        raise BundleMissing(f"{source} is gone", mend="put the bundle back") from error


def _unwritable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"registry.path: {path} cannot be written: {error.strerror}",
        mend="give the gateway a folder of its own that it may write, under registry.path",
    )

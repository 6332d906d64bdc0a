"""The bundles of one task on disk, and which of them serves.

    <registry.path>/<task>/
        roles.json                  who serves, who did before, and who is on the way there
        candidates.json             who is compared with live traffic
        watch.json                  what its alarms and its drift have seen; of a replica its own
        .canary-....json            how many texts a canary has answered; of a process its own
        tickets-0123456789ab/       bundles, each as it was sealed
        .staging-...                what is being unpacked; removed whatever comes of it

A bundle is unpacked, verified and rehearsed aside and then moved here as a whole, so that a reader
sees it whole or not at all. roles.json is replaced as a whole likewise, after the bundles that it
names are here, and only where it still says what a change started from: so that no replica, and
nothing that runs beside it in the same one, undoes what another did. What is wished takes turns, as
it waits for the log of changes; the way back takes none, and is held up by nothing but a comparison
and a rename. The registry starts no student: a seat does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.contract import archive
from gateway.contract.bundle import MANIFEST, Bundle, open_bundle, sync_folder
from gateway.contract.manifest import Name
from gateway.errors import BundleError, BundleMissing, Conflict, SettingsError

ROLES = "roles.json"
CANDIDATES = "candidates.json"

_LOCK = ".roles.lock"  # held for a comparison and a rename
_TURN = ".turn.lock"  # held by who waits for the log of changes too: no way back takes it

_STAGING = ".staging-"
_STALE_S = 3600.0  # a staging folder so old was left behind by a process that was killed


class Frozen(BaseModel):
    """Why nobody is promoted: an incident that is open until somebody has looked.

    `at` is in seconds since the epoch; `student`: the one that was sent back, if one was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    why: str
    at: float
    student: Name | None = None


class CanaryRole(BaseModel):
    """The candidate that answers a share of the requests, and how far it has come.

    `step` counts from 0, in the steps of the settings; `since` is when it was reached and `began`
    when the first one was, in seconds since the epoch. `by`: who promoted it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Name
    step: int = Field(ge=0)
    since: float
    began: float
    by: str


class Proposal(BaseModel):
    """A promotion that waits for a second person. `at` is in seconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Name
    by: str
    why: str
    override: bool
    at: float


class Owed(BaseModel):
    """A row that the log of changes does not have yet, of something that took effect at `at`.

    The `id` is its own: by it the log knows a row that it has already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    at: float
    what: str
    who: str
    old: str | None = None
    new: str | None = None
    why: str = ""
    evidence: dict[str, Any] = {}


class Roles(BaseModel):
    """Who serves a task. Every bundle that is named lies in the registry; `no_student` is none.

    `configured` is the bundle that the settings named when this was written: where they name
    another one now, they win. `launched`: when the one that serves got its first requests, in
    seconds since the epoch; None: it is no new one. `sent_back`: those that were rolled back, and
    that nobody has let serve since. `owed`: rows that are still to come into the log of changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    configured: Name
    serving: Name
    previous: Name | None = None
    frozen: Frozen | None = None
    launched: float | None = None
    canary: CanaryRole | None = None
    proposal: Proposal | None = None
    sent_back: tuple[Name, ...] = ()
    owed: tuple[Owed, ...] = ()


class Candidates(BaseModel):
    """The bundles that are compared with live traffic, in the order in which they came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    names: tuple[Name, ...] = ()


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

    @property
    def folder(self) -> Path:
        """Where all that is known of the task's students lies; it may not be there yet."""
        return self._folder

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
        if roles is not None:
            self._anew(path, roles)
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(path, error) from error

    def candidates(self) -> tuple[str, ...]:
        """Who is compared with live traffic, as candidates.json says. Raises SettingsError."""
        path = self._folder / CANDIDATES
        try:
            return Candidates.model_validate_json(path.read_bytes()).names
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            raise SettingsError(
                f"{path} cannot be read: {error}", mend="remove it, and add the candidates again"
            ) from error

    def nominate(self, name: str) -> None:
        """Note that a bundle is compared with live traffic. Raises SettingsError."""
        self._change_candidates(lambda names: (*names, *({name} - set(names))))

    def withdraw(self, *gone: str) -> None:
        """Note that these are not, any more. Raises SettingsError."""
        self._change_candidates(lambda names: tuple(each for each in names if each not in gone))

    def _change_candidates(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        path = self._folder / CANDIDATES
        with self._alone():
            before = self.candidates()
            after = change(before)
            if after != before:
                self._anew(path, Candidates(names=after))

    def replace(self, seen: Roles | None, roles: Roles) -> None:
        """Replace roles.json, durably, where it says what was `seen`.

        Raises Conflict where it has been changed since, or SettingsError; then it is as it was.
        """
        draft = self.draft(seen, roles, in_turn=False)
        try:
            draft.take()
        finally:
            draft.close()

    def draft(self, seen: Roles | None, roles: Roles | None, *, in_turn: bool) -> Draft:
        """New roles, for where roles.json still says what was `seen`; None: they are to stay so.

        They are on the disk before they hold, so that a full one is found here. `in_turn`: nobody
        else has one in turn, in any process, until this one is closed. Raises as `replace` does;
        where nothing is to change, nothing is written.
        """
        with ExitStack() as opened:
            if roles is None:
                self._compare(seen)
                return Draft(self, seen, None, None, opened.pop_all())
            if in_turn:
                opened.enter_context(self._alone(_TURN))
            with self._alone():
                self._compare(seen)
            aside = self._aside(roles)
            opened.callback(aside.unlink, missing_ok=True)
            return Draft(self, seen, roles, aside, opened.pop_all())

    def _compare(self, seen: Roles | None) -> None:
        """Raises Conflict where roles.json says something else; what it owes the log is no role."""
        found = self.roles()
        if (found and found.model_copy(update={"owed": ()})) != (
            seen and seen.model_copy(update={"owed": ()})
        ):
            raise Conflict(
                f"{self.task} has just been changed by somebody else", mend="look, and try again"
            )

    def _take(self, seen: Roles | None, aside: Path | None) -> None:
        """Let the file `aside` be roles.json, where that still says what was `seen`."""
        if aside is None:
            self._compare(seen)
            return
        with self._alone():
            self._compare(seen)
            self._rename(aside, self._folder / ROLES)

    def _undo(self, roles: Roles, before: Roles | None) -> None:
        """Let hold what held before these, unless somebody has moved on from them."""
        with suppress(Conflict), self._alone():
            self._compare(roles)
            self.remember(before)

    def _anew(self, path: Path, content: BaseModel) -> None:
        """Replace a file as a whole, durably. Raises SettingsError."""
        aside = self._aside(content)
        try:
            self._rename(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def _aside(self, content: BaseModel) -> Path:
        """A file of that content, on the disk. Raises SettingsError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".new-", delete=False) as new:
                new.write(content.model_dump_json(indent=2).encode() + b"\n")
                new.flush()
                os.fsync(new.fileno())
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        return Path(new.name)

    def _rename(self, aside: Path, path: Path) -> None:
        try:
            aside.replace(path)
            sync_folder(self._folder)
        except OSError as error:
            raise _unwritable(path, error) from error

    @contextmanager
    def _alone(self, name: str = _LOCK) -> Iterator[None]:
        """Wait until nobody else has this lock, in any process. Raises SettingsError."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / name).open("ab")
        except OSError as error:
            raise _unwritable(self._folder, error) from error
        with lock:  # closing it gives the lock back, and so does the end of the process
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

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


class Draft:
    """New roles that lie beside roles.json until they take its place. All of it blocks."""

    def __init__(
        self,
        registry: Registry,
        seen: Roles | None,
        roles: Roles | None,
        aside: Path | None,
        opened: ExitStack,
    ) -> None:
        self._registry = registry
        self._seen = seen
        self._roles = roles
        self._aside = aside
        self._opened = opened

    def take(self) -> None:
        """Let them hold. Raises Conflict or SettingsError; then nothing has changed."""
        self._registry._take(self._seen, self._aside)  # noqa: SLF001  two halves of one thing

    def undo(self) -> None:
        """After all, let hold what held before. Raises SettingsError."""
        if self._roles is not None:
            self._registry._undo(self._roles, self._seen)  # noqa: SLF001

    def close(self) -> None:
        """Leave nothing behind, and give the turn back."""
        self._opened.close()


def take_all(drafts: Sequence[Draft]) -> None:
    """Let the roles of several tasks hold, all or none. Raises like `Draft.take`."""
    with ExitStack() as undo:
        for draft in drafts:
            draft.take()
            undo.callback(draft.undo)
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

"""A project folder: where runs and bundles stand, and which bundle is meant by `student`.

runs/       one folder a run; may be removed to start anew
bundles/    sealed bundles, and the links `student` and `teacher` to the newest of each
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["student", "teacher"]

SEALED = "sealed.json"  # in a run's seal stage: which bundle came of it
TAUGHT = "taught.json"  # in a train stage: the ids of the rows that the network has learnt from


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of a recipe."""

    folder: Path

    @property
    def runs(self) -> Path:
        """Where runs stand."""
        return self.folder / "runs"

    @property
    def bundles(self) -> Path:
        """Where bundles stand."""
        return self.folder / "bundles"

    def link(self, role: Role, bundle: Path) -> Path:
        """Let `bundles/<role>` mean this bundle; a reader sees the old one or the new one."""
        link = self.bundles / role
        fresh = self.bundles / f".{role}.next"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.path.relpath(bundle, self.bundles))
        fresh.replace(link)
        return link

    def linked(self, role: Role) -> Path | None:
        """The bundle that `bundles/<role>` means, if there is one."""
        link = self.bundles / role
        return link.resolve() if (link / "manifest.json").is_file() else None

    def training_of(self, bundle_id: str) -> Path | None:
        """The train stage of the run that made a bundle, while the run is still there."""
        for sealed in self.runs.glob(f"*/seal/{SEALED}"):
            train = sealed.parent.parent / "train"
            if json.loads(sealed.read_text())["id"] == bundle_id and train.is_dir():
                return train
        return None

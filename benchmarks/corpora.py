"""Public data sets -> a project that `understudy teach` and `understudy distill` can run.

Each has a test set of its own, which is looked at for figures alone. CLINC150 also has texts that
are of none of its intents: nothing is taught, calibrated or chosen with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distill.recipe import DataPlan, HeadPlan, Recipe, SplitShares
from gateway.contract.manifest import HeadKind
from gateway.errors import DataError


@dataclass(frozen=True, slots=True)
class Corpus:
    """A data set: how its folder becomes a recipe's data, and its texts from outside.

    `strangers` are texts of no label at all (empty where the data set has none).
    """

    name: str
    plan: DataPlan
    strangers: tuple[str, ...]

    def recipe(self, folder: Path, *, seed: int) -> Recipe:
        """The recipe as `understudy init` writes it, but for the data, the splits and the seed."""
        return Recipe(version=1, task=self.name, data=self.plan, seed=seed, folder=folder)


def banking77(source: Path, work: Path) -> Corpus:
    """BANKING77 (Casanueva et al. 2020): 77 intents of bank customers; `work` is not written."""
    del work
    return Corpus(
        name="banking77",
        plan=DataPlan(
            path=_there(source / "train.csv"),
            test=_there(source / "test.csv"),
            heads={"category": HeadPlan(kind=HeadKind.CHOICE, column="category")},
        ),
        strangers=(),
    )


def clinc150(source: Path, work: Path) -> Corpus:
    """CLINC150 (Larson et al. 2019): 150 intents of an assistant, and queries out of its scope.

    Its train and validation parts are one pool here, of which as many rows are taught as its train
    part has (15,000): the rest calibrates and certifies. Writes the pool into `work`.
    """
    parts = [_there(source / f"{name}.jsonl") for name in ("train", "validation")]
    pool = work / "clinc150.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    pool.write_bytes(b"".join(part.read_bytes() for part in parts))
    strange = _there(source / "oos_test.jsonl").read_text(encoding="utf-8").splitlines()
    return Corpus(
        name="clinc150",
        plan=DataPlan(
            path=pool,
            test=_there(source / "test.jsonl"),
            heads={"intent": HeadPlan(kind=HeadKind.CHOICE, column="label")},
            split=SplitShares(calibration=0.067, certification=0.1),
        ),
        strangers=tuple(json.loads(line)["text"] for line in strange),
    )


CORPORA: dict[str, Callable[[Path, Path], Corpus]] = {
    "clinc150": clinc150,
    "banking77": banking77,
}


def _there(path: Path) -> Path:
    if not path.is_file():
        raise DataError(
            f"there is no {path}",
            mend="give the folder that holds banking77/ and clinc150/ as --data",
        )
    return path.resolve()

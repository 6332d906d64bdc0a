"""An exported model before it is sealed: what later stages run, measure and certify."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from distill.familiarity import Fitted
from gateway.contract import bundle
from gateway.contract.manifest import (
    Correctness,
    Golden,
    Graph,
    HeadCalibration,
    InputLimits,
    Manifest,
    Provenance,
    Task,
    Trial,
)
from gateway.students.student import Student

_FACTS = "facts.json"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the export stage found out."""

    graph: Graph
    limits: InputLimits
    fp32_difference: float
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """A model, its tokenizer and what is known of them."""

    role: Literal["student", "teacher"]
    task: Task
    facts: Facts
    model: bytes
    tokenizer: bytes

    def student(
        self,
        calibration: tuple[HeadCalibration, ...] | None = None,
        *,
        correctness: Correctness | None = None,
        familiar: Fitted | None = None,
    ) -> Student:
        """The model as it would be served; without a calibration, temperatures are 1."""
        parts = calibration or neutral(self.task)
        manifest = Manifest(
            role=self.role,
            task=self.task,
            limits=self.facts.limits,
            graph=self.facts.graph,
            calibration=parts,
            correctness=correctness,
            domain=familiar.domain if familiar else None,
            files=(),
            tokenizer_sha256=hashlib.sha256(self.tokenizer).hexdigest(),
            golden=Golden(tolerance=1.0, distance_tolerance=1.0, vectors=()),
            provenance=Provenance(created_at=""),
        )
        return Student(
            bundle.Bundle(
                id="0" * 64,
                path=Path(),
                manifest=manifest,
                model=self.model,
                tokenizer=self.tokenizer,
                domain=familiar.content if familiar else None,
            )
        )

    def write(self, folder: Path) -> None:
        """Write the draft into a stage's folder."""
        (folder / bundle.MODEL).write_bytes(self.model)
        (folder / bundle.TOKENIZER).write_bytes(self.tokenizer)
        (folder / _FACTS).write_bytes(TypeAdapter(Facts).dump_json(self.facts, indent=2))

    @classmethod
    def read(cls, folder: Path, *, role: Literal["student", "teacher"], task: Task) -> Draft:
        """Read what `write` wrote."""
        return cls(
            role=role,
            task=task,
            facts=TypeAdapter(Facts).validate_json((folder / _FACTS).read_bytes()),
            model=(folder / bundle.MODEL).read_bytes(),
            tokenizer=(folder / bundle.TOKENIZER).read_bytes(),
        )


def neutral(task: Task) -> tuple[HeadCalibration, ...]:
    """Temperatures of 1: the calibration of a model that was not calibrated."""
    return tuple(HeadCalibration(head=head.name, temperature=1.0, rows=0) for head in task.heads)

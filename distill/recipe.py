"""The recipe: what to train, from which data, under which promises. One strict YAML file.

Unknown and misspelt keys are errors, all of a file's errors are told at once, and the hash of the
content names the run. It refuses to read data or models: it only says where they are.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import operator
import os
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_serializer,
    model_validator,
)

from gateway import document
from gateway.contract.manifest import HeadKind, Name, Positive, Share
from gateway.errors import RecipeError
from gateway.settings import TeacherSettings

FILE_NAME = "recipe.yaml"

OpenShare = Annotated[float, Field(gt=0.0, lt=1.0)]
Column = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(min_length=1, max_length=200)]  # the manifest's own limit
Price = Annotated[Decimal, Field(ge=0)]
LossName = Literal["kl", "cross_entropy", "logit_mse"]


def _absent(value: object) -> bool:
    return value is None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HeadPlan(_Part):
    """Where a head's gold labels stand.

    `labels`, when given, is the whole list, in the order of the model's outputs; without it the
    list is what the data holds, sorted. It must be given where the data has no labels at all.
    """

    kind: HeadKind
    column: Column
    labels: tuple[Label, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _labels_make_a_head(self) -> Self:
        labels = self.labels or ()
        if len(set(labels)) != len(labels):
            raise ValueError("labels names a label twice")
        if self.kind is HeadKind.CHOICE and len(labels) == 1:
            raise ValueError("a choice needs two labels or more")
        return self


class SplitShares(_Part):
    """Shares of the labelled rows that are held out; the rest is train."""

    calibration: OpenShare = 0.05
    certification: OpenShare = 0.1
    test: OpenShare = 0.15


class HandoverPlan(_Part):
    """What a gateway handed over: rows of its traffic, to be learnt beside the recipe's own.

    `measure`: which rows calibrate, certify and test. `traffic`: a share of those handed over that
    all had the same chance to be there, so that what is proved holds for traffic as it is; `own`:
    those of the recipe's own data, as without a handover.
    """

    path: Path
    measure: Literal["traffic", "own"] = "traffic"
    # Audited rows are few and alone prove something; the escalated ones, and the own, teach.
    split: SplitShares = SplitShares(calibration=0.15, certification=0.4, test=0.15)


class DataPlan(_Part):
    """The files and what their columns mean. Paths are relative to the recipe's folder.

    A file of Example lines has no columns: a head's column is then its name in the lines.
    """

    path: Path
    test: Path | None = None
    unlabelled: Path | None = None
    handover: HandoverPlan | None = Field(
        default=None, exclude_if=_absent, description="rows of live traffic, beside these"
    )
    text_column: Column = "text"
    group_column: Column | None = None
    field_columns: tuple[Column, ...] = ()
    heads: dict[Name, HeadPlan] = Field(min_length=1)
    severity: dict[Name, dict[Label, Annotated[float, Field(ge=0.0)]]] = {}
    split: SplitShares = SplitShares()
    allow_biased: bool = Field(
        default=False,
        exclude_if=operator.not_,
        description="train on rows that a student chose, with no audited ones beside",
    )

    @model_validator(mode="before")
    @classmethod
    def _a_file_alone_is_a_handover(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(path := given.get("handover"), str):
            return given | {"handover": {"path": path}}
        return given

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Self:
        columns = [self.text_column, *(head.column for head in self.heads.values())]
        if twice := sorted({column for column in columns if columns.count(column) > 1}):
            raise ValueError(f"the column {twice[0]!r} is the text or a head more than once")
        for head in self.severity:
            if head not in self.heads:
                raise ValueError(f"severity names {head!r}{hint(head, self.heads)}")
        held_out = self.split.calibration + self.split.certification
        if self.test is None:
            held_out += self.split.test
        if held_out >= 1.0:
            raise ValueError(f"split holds out {held_out:.2f} of the rows and leaves no train rows")
        return self


class LossTerm(_Part):
    """One part of the training loss; `temperature` belongs to kl alone."""

    name: LossName
    weight: Positive = 1.0
    temperature: Positive = 2.0

    @model_validator(mode="after")
    def _temperature_is_used(self) -> Self:
        if self.name != "kl" and "temperature" in self.model_fields_set:
            raise ValueError(f"{self.name} has no temperature; only kl has one")
        return self


class Training(_Part):
    """How long, how fast and towards what a network is trained."""

    epochs: int = Field(ge=1, le=1000)
    batch: int = Field(default=32, ge=1, le=4096, description="rows of one step")
    learning_rate: OpenShare = Field(description="of the encoder, at its peak")
    head_learning_rate: OpenShare = Field(default=2.0e-3, description="of the new heads")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    losses: tuple[LossTerm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _losses_are_distinct(self) -> Self:
        if len({loss.name for loss in self.losses}) != len(self.losses):
            raise ValueError("losses names a loss twice")
        return self


class TeacherPlan(_Part):
    """An existing teacher bundle, a teacher that is asked, or how to make one on the gold labels.

    `ask` describes the teacher as the gateway's settings do. Keys that are left out of it change no
    run's name, so that what was made before they were known is kept.
    """

    bundle: Path | None = None
    ask: TeacherSettings | None = Field(
        default=None, exclude_if=_absent, description="asked for each text, instead of a bundle"
    )
    max_usd: Price | None = Field(
        default=None, exclude_if=_absent, description="all that asking may cost; null: no limit"
    )
    base: Annotated[str, Field(min_length=1)] = "minilm"
    layers: int = Field(default=6, ge=1, le=48)
    training: Training = Training(
        epochs=6, learning_rate=1.0e-4, losses=(LossTerm(name="cross_entropy"),)
    )

    @model_validator(mode="after")
    def _learns_from_gold(self) -> Self:
        for loss in self.training.losses:
            if loss.name != "cross_entropy":
                raise ValueError(f"the loss {loss.name} needs a teacher; a teacher has none")
        return self

    @model_validator(mode="after")
    def _is_chosen_without_a_student(self) -> Self:
        several = None if self.ask is None else self.ask.ensemble
        for skill in several.skills if several else ():
            if skill.when.head is not None:
                raise ValueError(
                    f"ask.ensemble: the skill {skill.when.name!r} looks at what a student says, "
                    "and here none says anything: let it look at the text or a field"
                )
        return self

    @model_validator(mode="after")
    def _one_way_to_know(self) -> Self:
        if self.ask is not None and self.bundle is not None:
            raise ValueError("bundle and ask are two teachers: name one of them")
        if self.max_usd is not None and self.ask is None:
            raise ValueError("max_usd limits what asking costs, and ask names no teacher")
        return self


class StudentPlan(_Part):
    """What the student is made of and how it is trained."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1), min_length=1)
    max_tokens: int = Field(default=64, ge=8, le=512)  # 512: the positions of a BERT
    prune_vocabulary: bool = True
    augment: int = Field(default=2, ge=0, le=20, description="noisy copies of each text")
    training: Training = Training(
        epochs=5,
        learning_rate=3.0e-4,
        dropout=0.0,
        losses=(
            LossTerm(name="kl", weight=1.0, temperature=2.0),
            LossTerm(name="logit_mse", weight=0.3),
        ),
    )

    @model_validator(mode="after")
    def _layers_ascend(self) -> Self:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers must ascend, each named once")
        return self


class CertificatePlan(_Part):
    """The promise: undetected error <= alpha, with confidence 1 - delta."""

    alpha: OpenShare = 0.02
    delta: OpenShare = 0.05


def _method(given: Any) -> Any:
    """`true` and `false`, as recipes said before there was a choice."""
    return {True: "mahalanobis", False: "none"}[given] if isinstance(given, bool) else given


class ScorePlan(_Part):
    """What the bundle says of its own answers, beside calibrated probabilities."""

    correctness: bool = True
    out_of_domain: Annotated[Literal["mahalanobis", "knn", "none"], BeforeValidator(_method)] = (
        "mahalanobis"
    )

    @field_serializer("out_of_domain")
    def _as_before(self, method: str) -> str | bool:
        """What could be said before is written as before: the recipe's hash stays."""
        return {"mahalanobis": True, "none": False}.get(method, method)


class GatesPlan(_Part):
    """How much the int8 graph may differ from fp32, as shares of rows."""

    label_flips: Share = 0.005
    confident_flips: Share = 0.001


class Prices(_Part):
    """What answers cost in USD; null is unknown, which is never 0."""

    teacher_usd_per_1000: Price | None = None
    instance_usd_per_hour: Price | None = None


class Recipe(_Part):
    """One training, described whole."""

    version: Literal[1]
    task: Name
    data: DataPlan
    teacher: TeacherPlan = TeacherPlan()
    student: StudentPlan = StudentPlan()
    score: ScorePlan = ScorePlan()
    certificate: CertificatePlan = CertificatePlan()
    gates: GatesPlan = GatesPlan()
    prices: Prices = Prices()
    seed: int = Field(default=0, ge=0, lt=2**32)  # what numpy and torch both take
    folder: Path = Field(exclude=True, description="where it stands; its relative paths start here")

    @model_validator(mode="after")
    def _student_fits_in_its_teacher(self) -> Self:
        if self.teacher.bundle is None and self.student.layers[-1] >= self.teacher.layers:
            raise ValueError(
                f"student.layers names layer {self.student.layers[-1]}, and the teacher has "
                f"the layers 0 to {self.teacher.layers - 1}"
            )
        return self

    def resolve(self, path: Path) -> Path:
        """A path of the recipe -> where it is. `..` is taken off by name, links are not asked."""
        return Path(os.path.normpath(self.folder / path))

    def handed(self, file: Path | None, *, allow_biased: bool = False) -> Self:
        """The same with this file of a gateway (None: as the recipe says), and perhaps any bias."""
        changes: dict[str, object] = {"allow_biased": allow_biased or self.data.allow_biased}
        if file is not None:
            path = file.absolute()
            plan = self.data.handover or HandoverPlan(path=path)
            changes["handover"] = plan.model_copy(update={"path": path})
        return self.model_copy(update={"data": self.data.model_copy(update=changes)})

    def alone(self) -> Self:
        """The same without what a gateway handed over."""
        data = self.data.model_copy(update={"handover": None})
        return self.model_copy(update={"data": data})

    @property
    def hash(self) -> str:
        """SHA-256 of the content as canonical JSON; the folder does not count."""
        content = self.model_dump(mode="json")
        # The order of heads is the order of the model's outputs: it is content, unlike other keys'.
        content["data"]["heads"] = list(content["data"]["heads"].items())
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path) -> Recipe:
    """Read a recipe file. Raises RecipeError, which tells every mistake, one a line."""
    return parse(document.load(path, RecipeError), path=path)


def parse(content: dict[str, Any], *, path: Path) -> Recipe:
    """What stands in a recipe file at `path` -> Recipe. Raises RecipeError as `load` does."""
    if "folder" in content:
        raise RecipeError(
            f"{path}: folder: a recipe's folder is where it stands", mend="remove the key"
        )
    return document.validate(
        content | {"folder": path.parent}, Recipe, RecipeError, where=str(path)
    )


def hint(word: str, known: Iterable[str]) -> str:
    """What to write in the place of an unknown word: the nearest known one, or all of them."""
    words = [str(each) for each in known]  # members of an enumeration by their values
    if near := difflib.get_close_matches(word, words, n=1):
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(words)}" if words else ""

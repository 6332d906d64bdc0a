"""The manifest of a bundle: everything that is said about a model, in one strict JSON file.

Schema version 1. Unknown keys are errors, so that a bundle never promises what its reader ignores.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Literal[1] = 1

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_CLASSES = 256  # with a centre of their own: what a text costs grows with them


def _absent(value: object) -> bool:
    """Whether a part that came to schema version 1 later is not there.

    Then it is not written, so that a manifest from before keeps its canonical form, and its id.
    """
    return value is None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HeadKind(StrEnum):
    """What a head decides: one label of many, or each label yes or no."""

    CHOICE = "choice"
    FLAGS = "flags"


class Head(_Part):
    """One decision of a task. Labels are in the order of the model's logits."""

    name: Name
    kind: HeadKind
    labels: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"head {self.name!r} names a label twice")
        if self.kind is HeadKind.CHOICE and len(self.labels) < 2:
            raise ValueError(f"head {self.name!r} is a choice and needs two labels or more")
        return self


class Task(_Part):
    """A named job: its heads, in the order in which their logits stand in the model's output."""

    name: Name
    heads: tuple[Head, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _heads_are_distinct(self) -> Self:
        if len({head.name for head in self.heads}) != len(self.heads):
            raise ValueError("two heads have the same name")
        return self

    @property
    def outputs(self) -> int:
        """Logits of all heads together."""
        return sum(len(head.labels) for head in self.heads)

    def slices(self) -> tuple[slice, ...]:
        """Where each head's logits stand in a row of the output."""
        found, start = [], 0
        for head in self.heads:
            found.append(slice(start, start + len(head.labels)))
            start += len(head.labels)
        return tuple(found)


class InputLimits(_Part):
    """What the model reads: longer text is cut, and the prediction says so."""

    max_tokens: int = Field(ge=8, le=8192)
    max_characters: int = Field(ge=1, le=1_000_000)


class Graph(_Part):
    """What is known of the ONNX file."""

    precision: Literal["fp32", "int8"]
    recipe: str = Field(description="how the graph was made, e.g. 'dynamic int8, per channel'")
    opset: int = Field(ge=1)
    layers: int | None = None
    hidden: int = Field(ge=1, description="length of the pooled vector, the second output")
    vocabulary: int = Field(ge=1, description="rows of the embedding table")
    parameters: int = Field(ge=1)
    batch_invariant: bool = Field(
        description="a text alone and in any batch gives the same answer; false: never batched"
    )


class HeadCalibration(_Part):
    """Raw logits of one head -> calibrated probabilities, by temperature (Guo et al. 2017)."""

    head: Name
    temperature: Positive
    rows: int = Field(ge=0, description="labelled rows that it was fitted on; 0: not fitted")
    ece_before: Share | None = None
    ece_after: Share | None = None


class Signal(_Part):
    """What one signal adds to the log-odds of being right: weight * (value - mean) / scale.

    What the values are: `gateway.contract.correctness`.
    """

    name: Literal["margin", "probability", "entropy", "energy", "distance", "length"]
    mean: float
    scale: Positive
    weight: float


class Step(_Part):
    """A knot of the monotone curve from a head's logistic score to its share of right answers."""

    score: Share
    right: Share


class HeadCorrectness(_Part):
    """P(a head is right): logistic in its signals, then monotone through the steps, if any.

    Without signals the head's calibrated confidence is its score.
    """

    head: Name
    bias: float = 0.0
    signals: tuple[Signal, ...] = ()
    steps: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if len({signal.name for signal in self.signals}) != len(self.signals):
            raise ValueError(f"the correctness of {self.head!r} names a signal twice")
        scores, shares = [step.score for step in self.steps], [step.right for step in self.steps]
        if sorted(set(scores)) != scores or sorted(shares) != shares:
            raise ValueError(f"the steps of {self.head!r} do not ascend")
        return self


class Correctness(_Part):
    """P(all heads are right): slope * log-odds of the product of the heads' scores + bias."""

    heads: tuple[HeadCorrectness, ...]
    slope: Positive = 1.0
    bias: float = 0.0
    rows: int = Field(ge=1, description="labelled rows that it was fitted on")


class Domain(_Part):
    """What the numbers of the bundle's `domain.f32` are; see `gateway.contract.domain`."""

    method: Literal["mahalanobis", "knn"] = "mahalanobis"
    dimensions: int = Field(ge=1, le=128, description="that pooled vectors are brought down to")
    centres: int = Field(
        ge=1, le=4096, description="mahalanobis: one a class of answers; knn: known texts"
    )
    neighbour: int | None = Field(
        default=None, ge=1, exclude_if=_absent, description="knn: which of the nearest counts"
    )
    rows: int = Field(ge=1, description="texts that all of this was fitted on")
    calibration: int = Field(ge=1, le=2000, description="texts apart from these: their distances")

    @model_validator(mode="after")
    def _can_be_measured(self) -> Self:
        if (self.method == "knn") is (self.neighbour is None):
            raise ValueError("a domain names a neighbour where its method is knn, and only there")
        if self.neighbour is None and self.centres > _CLASSES:
            raise ValueError(f"a domain has at most {_CLASSES} centres, one a class")
        if self.neighbour is not None and self.neighbour > self.centres:
            raise ValueError(f"there is no neighbour {self.neighbour} among {self.centres} texts")
        return self


class Certificate(_Part):
    """P(answered by the student and wrong) <= alpha, with confidence 1 - delta.

    Learn-then-Test (Angelopoulos et al. 2021, arXiv 2110.01052) with exact binomial tails over a
    fixed sequence of thresholds. `labels` says against whom "wrong" was counted.
    """

    alpha: Share
    delta: Share
    labels: Literal["gold", "teacher"]
    rows: int = Field(ge=1)
    undetected_errors: int = Field(ge=0)
    upper_bound: Share = Field(description="exact upper bound of the undetected error, level delta")
    score: Literal["all_heads"] = "all_heads"
    issued_at: str


class OperatingPoint(_Part):
    """A threshold on the request's score: at or above it the student answers.

    A threshold of None means that no threshold could be certified: everything is escalated.
    """

    name: Name
    threshold: float | None
    coverage: Share
    undetected_error: Share
    certificate: Certificate | None


class FileEntry(_Part):
    """One file of the bundle besides the manifest."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=120)]
    sha256: Hash
    size: int = Field(ge=0)


class GoldenVector(_Part):
    """A text with what this model gave for it; checked on every host before serving.

    `distance` is that of `gateway.contract.domain`, where the bundle has one.
    """

    text: str
    tokens: tuple[int, ...]
    logits: tuple[float, ...]
    distance: float | None = Field(default=None, exclude_if=_absent)


class Golden(_Part):
    """The self-test of a bundle. `tolerance` is the largest allowed difference of any logit."""

    tolerance: Positive
    distance_tolerance: Positive | None = Field(
        default=None, exclude_if=_absent, description="the same of any distance"
    )
    vectors: tuple[GoldenVector, ...]


class Provenance(_Part):
    """Where a model came from."""

    created_at: str
    run: str | None = Field(default=None, description="hash of the recipe, the name of the run")
    seeds: tuple[int, ...] = ()
    data: dict[str, Hash] = Field(default_factory=dict, description="data file -> SHA-256")
    rows: dict[str, int] = Field(default_factory=dict, description="split -> rows")
    base_model: str | None = None
    base_model_sha256: Hash | None = None
    teacher: str | None = Field(
        default=None, description="bundle id of the teacher, or the name of one that was asked"
    )
    libraries: dict[str, str] = Field(default_factory=dict)
    commit: str | None = None
    stages: dict[str, float] = Field(default_factory=dict, description="stage -> wall seconds")


class HeadQuality(_Part):
    """Measured on the untouched test split; None where there are no gold labels."""

    head: Name
    rows: int
    accuracy: Share | None = None
    macro_f1: Share | None = None
    agreement: Share | None = Field(default=None, description="with the teacher")
    ece: Share | None = None
    ece_plain: Share | None = Field(
        default=None,
        exclude_if=_absent,
        description="of the calibrated confidence, where the bundle has a correctness score",
    )
    teacher_accuracy: Share | None = None
    teacher_macro_f1: Share | None = None


class SliceQuality(_Part):
    """Quality on one part of the test split, all heads right."""

    name: str
    rows: int
    accuracy: Share


class Evaluation(_Part):
    """What the model does on the untouched test split, as exported and calibrated."""

    rows: int
    labels: Literal["gold", "teacher"]
    heads: tuple[HeadQuality, ...]
    accuracy: Share = Field(description="all heads right")
    teacher_accuracy: Share | None = None
    system_accuracy: Share = Field(description="student where it answers, teacher elsewhere")
    escalation: Share
    undetected_error: Share
    system_accuracy_at_10: Share = Field(description="the same with 10 % of the rows escalated")
    augrc: Share = Field(description="area under the generalised risk-coverage curve")
    augrc_plain: Share | None = Field(
        default=None, exclude_if=_absent, description="the same without the correctness score"
    )
    score_ece: Share | None = Field(
        default=None, exclude_if=_absent, description="of the request's score"
    )
    score_ece_plain: Share | None = Field(
        default=None, exclude_if=_absent, description="the same without the correctness score"
    )
    out_of_domain: Share | None = Field(
        default=None, exclude_if=_absent, description="share of the rows with a p-value below 0.01"
    )
    severity_weighted_error: float | None = None
    worst_slice: SliceQuality | None = None


class Parity(_Part):
    """How near the exported graph is to the module that was trained. Shares are of `rows`."""

    rows: int
    tokenizer_equal: bool
    fp32_max_difference: float | None = Field(
        default=None, description="fp32 graph vs torch logits"
    )
    label_flips: Share | None = Field(default=None, description="int8 vs fp32, any head")
    confident_flips: Share | None = Field(
        default=None, description="of those at or above threshold"
    )
    batch_label_flips: Share | None = Field(
        default=None, description="alone vs in a batch: label or decision"
    )
    batch_score_difference: float | None = None


class Trial(_Part):
    """One way to quantise that was tried. One that was not possible has no figures, only a note."""

    recipe: str
    microseconds: Positive | None = Field(
        default=None, description="median of one text of typical length, ORT alone"
    )
    microseconds_batched: Positive | None = Field(
        default=None, description="a text, served its way"
    )
    size: int | None = None
    label_flips: Share | None = None
    confident_flips: Share | None = None
    batch_invariant: bool | None = None
    passed: bool
    kept: bool
    note: str = ""


class Latency(_Part):
    """In-process time of one text: tokenise + run + calibrate, one thread."""

    machine: str
    rows: int
    p50_ms: Positive
    p95_ms: Positive
    teacher_p50_ms: Positive | None = None
    teacher_p95_ms: Positive | None = None


class Reports(_Part):
    """What was measured when the bundle was made."""

    evaluation: Evaluation | None = None
    parity: Parity | None = None
    trials: tuple[Trial, ...] = ()
    latency: Latency | None = None


class Manifest(_Part):
    """Everything that is said about a bundle. The hash of its canonical JSON names the bundle."""

    schema_version: Literal[1] = SCHEMA_VERSION
    role: Literal["student", "teacher"]
    task: Task
    limits: InputLimits
    graph: Graph
    calibration: tuple[HeadCalibration, ...]
    correctness: Correctness | None = Field(default=None, exclude_if=_absent)
    domain: Domain | None = Field(default=None, exclude_if=_absent)
    operating_points: tuple[OperatingPoint, ...] = ()
    files: tuple[FileEntry, ...]
    tokenizer_sha256: Hash
    golden: Golden
    provenance: Provenance
    reports: Reports = Reports()

    @model_validator(mode="after")
    def _parts_belong_together(self) -> Self:
        heads = [head.name for head in self.task.heads]
        if [part.head for part in self.calibration] != heads:
            raise ValueError("calibration does not name the heads of the task, in their order")
        if self.correctness is not None:
            self._check_correctness(self.correctness, heads)
        if self.domain is not None:
            self._check_distances()
        for vector in self.golden.vectors:
            if len(vector.logits) != self.task.outputs:
                raise ValueError("a golden vector has another number of logits than the task")
        if len({entry.name for entry in self.files}) != len(self.files):
            raise ValueError("a file is listed twice")
        return self

    def _check_correctness(self, found: Correctness, heads: list[str]) -> None:
        if [part.head for part in found.heads] != heads:
            raise ValueError("correctness does not name the heads of the task, in their order")
        far = any(signal.name == "distance" for part in found.heads for signal in part.signals)
        if far and self.domain is None:
            raise ValueError("correctness reads a distance, and there is no domain")

    def _check_distances(self) -> None:
        if self.golden.distance_tolerance is None:
            raise ValueError("there is a domain, and golden.distance_tolerance is not set")
        if any(vector.distance is None for vector in self.golden.vectors):
            raise ValueError("there is a domain, and a golden vector has no distance")

    def operating_point(self, name: str) -> OperatingPoint | None:
        """The operating point of that name, if the bundle has one."""
        return next((point for point in self.operating_points if point.name == name), None)

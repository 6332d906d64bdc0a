"""The flywheel measured: a next student of a biased log, with weights and without.

A first student answers what it is sure of; the log then holds the labels of what it escalates, and
of a small audited share of the rest. From that log next students are trained: on escalations alone,
on all rows alike, and with each row weighted by its chance; beside them one on all traffic, which
no log holds, as a ceiling. All are scored on a test set that is traffic as it is.

The encoder is frozen (all-MiniLM-L6-v2, mean-pooled) and a linear head is trained on it by the loss
and the weights that `understudy distill` trains with: a seed then takes seconds on two cores, and
what differs between the ways is the log alone. The teacher is taken to be right.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.corpora import Corpus
from distill import pretrained
from distill.data import chances
from distill.losses.response import CrossEntropy, Targets
from distill.networks import encoder
from distill.stages.limits import TEACHER_TOKENS
from gateway.contract.encoding import Encoding, pad
from gateway.contract.examples import Example
from gateway.contract.manifest import HeadKind, InputLimits
from gateway.errors import DataError

OWN = 10  # texts of each label that the first student is taught: a team's first afternoon
ANSWERED = 0.7  # of the traffic by the first student, what it is surest of
AUDITED = (0.02, 0.05)  # of what it answers: the default share, and a careful team's

_STEPS = 60  # of L-BFGS over all rows: a convex loss is at its minimum by then, but for 1 %
_DECAY = 1e-4  # of the squared weights: scikit-learn's default, 1 / (2 n), of 5,000 rows
_SCALE = 10.0  # of the unit vectors, so that weights of 1 make confident logits
_BATCH = 64  # texts that are encoded together
_CHARACTERS = 2000  # far above any text here

Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A corpus as vectors: `vectors` (n, hidden), `labels` (n,), and the same of its test set."""

    texts: tuple[str, ...]
    vectors: Vectors
    labels: Integers
    test_vectors: Vectors
    test_labels: Integers

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a way of training came to: accuracy on the test set, whole and in two parts.

    `sure` are the test texts that the first student would have answered, `unsure` the others.
    """

    way: str
    rows: int
    accuracy: float
    sure: float
    unsure: float


@dataclass(frozen=True, slots=True)
class Turn:
    """One seed at one share of audits. `first` is the accuracy of the first student.

    `beside_own`: the first student's own rows are taught too, as `understudy improve` does.
    """

    corpus: str
    seed: int
    audited: float
    beside_own: bool
    first: float
    outcomes: tuple[Outcome, ...]


def encode(corpus: Corpus) -> Encoded:
    """Both parts of a corpus of one choice head, through the frozen encoder."""
    test = corpus.plan.test
    if test is None or corpus.plan.path.suffix != ".csv":
        raise DataError(f"{corpus.name}: no CSV with a test set", mend="name --corpora banking77")
    (head,) = corpus.plan.heads.values()
    texts, names = _read(corpus.plan.path, corpus.plan.text_column, head.column)
    test_texts, test_names = _read(test, corpus.plan.text_column, head.column)
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    vectors = _vectors([*texts, *test_texts])
    return Encoded(
        texts=texts,
        vectors=vectors[: len(texts)],
        labels=np.array([places[name] for name in names]),
        test_vectors=vectors[len(texts) :],
        test_labels=np.array([places[name] for name in test_names]),
    )


def turn(name: str, data: Encoded, *, seed: int, audited: float, beside_own: bool) -> Turn:
    """One turn: a first student, its log, and the next students of each way."""
    dice = np.random.default_rng(seed)
    own, traffic = _first_rows(data.labels, dice)
    first = _taught(data, own, None, seed=seed)
    sure = _confidence(first, data.vectors[traffic])
    threshold = float(np.quantile(sure, 1.0 - ANSWERED))
    answered = sure >= threshold
    seen = ~answered | (dice.random(len(traffic)) < audited)
    log = _log(data, traffic[seen], answered[seen], audited)
    surely = _confidence(first, data.test_vectors) >= threshold
    beside = own if beside_own else own[:0]

    def outcome(way: str, rows: Integers, weights: Vectors | None) -> Outcome:
        taught = np.concatenate([beside, rows])
        right = _right(_taught(data, taught, weights, seed=seed), data)
        return Outcome(
            way,
            len(taught),
            *(float(part.mean()) for part in (right, right[surely], right[~surely])),
        )

    weighted = chances.weights([*(_row(data, row) for row in beside), *log])
    return Turn(
        corpus=name,
        seed=seed,
        audited=audited,
        beside_own=beside_own,
        first=float(_right(first, data).mean()),
        outcomes=(
            outcome("escalated alone", traffic[~answered], None),
            outcome("all alike", traffic[seen], None),
            outcome("weighted", traffic[seen], weighted),
            outcome("all traffic", traffic, None),
        ),
    )


def table(turns: Sequence[Turn]) -> str:
    """Means over the seeds, and how much weights gain, seed by seed: Markdown."""
    lines = [
        "| audited | own data beside | way | rows | accuracy | where sure | where unsure |",
        "|---|---|---|---|---|---|---|",
    ]
    gains = []
    for audited, beside in sorted({(each.audited, each.beside_own) for each in turns}):
        same = [each for each in turns if (each.audited, each.beside_own) == (audited, beside)]
        ways = list(zip(*(each.outcomes for each in same), strict=True))
        for outcomes in ways:
            mean = [
                float(np.mean([getattr(each, part) for each in outcomes]))
                for part in ("rows", "accuracy", "sure", "unsure")
            ]
            lines.append(
                f"| {audited:.0%} | {'yes' if beside else 'no'} | {outcomes[0].way} | "
                f"{mean[0]:,.0f} | {mean[1]:.2%} | {mean[2]:.2%} | {mean[3]:.2%} |"
            )
        differences = np.array(
            [each.outcomes[2].accuracy - each.outcomes[1].accuracy for each in same]
        )
        gains.append(
            f"weights gain {differences.mean() * 100:+.2f} points at {audited:.0%} audited, "
            f"{'with' if beside else 'without'} the own data ({(differences > 0).sum()} of "
            f"{len(same)} seeds; least {differences.min() * 100:+.2f})"
        )
    return "\n".join([*lines, "", *gains]) + "\n"


def _read(path: Path, text: str, label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(row[text] for row in rows), tuple(row[label] for row in rows)


def _vectors(texts: Sequence[str]) -> Vectors:
    """(n, hidden), each of length 1."""
    base = pretrained.find(pretrained.MINILM, Path())
    network = encoder.from_pretrained(base.folder, outputs=1).eval()
    limits = InputLimits(max_tokens=TEACHER_TOKENS, max_characters=_CHARACTERS)
    ids = [each.ids for each in Encoding(base.tokenizer, limits).encode(texts)]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # little padding
    found = np.zeros((len(ids), network.shape.hidden), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), _BATCH):
            part = order[start : start + _BATCH]
            tokens, mask = (torch.from_numpy(each) for each in pad([ids[row] for row in part]))
            pooled: Vectors = network(tokens, mask)[1].numpy()
            found[part] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    return found


def _first_rows(labels: Integers, dice: np.random.Generator) -> tuple[Integers, Integers]:
    """OWN rows of each label, and all others, in the order of the draw."""
    order = dice.permutation(len(labels))
    seen = np.zeros(int(labels.max()) + 1, np.int64)
    own = np.zeros(len(labels), np.bool_)
    for place, row in enumerate(order):
        own[place] = seen[labels[row]] < OWN
        seen[labels[row]] += 1
    return order[own], order[~own]


def _log(
    data: Encoded, rows: Integers, answered: NDArray[np.bool_], audited: float
) -> list[Example]:
    """The rows as a gateway hands them over."""
    return [
        replace(_row(data, row), propensity=audited if sure else 1.0, chosen=not sure)
        for row, sure in zip(rows, answered, strict=True)
    ]


def _row(data: Encoded, row: int) -> Example:
    return Example(data.texts[row], {"label": str(data.labels[row])}, source="teacher")


def _taught(
    data: Encoded, rows: Integers, weights: Vectors | None, *, seed: int
) -> torch.nn.Linear:
    """A linear head on the vectors of these rows."""
    torch.manual_seed(seed)
    head = torch.nn.Linear(data.vectors.shape[1], data.classes)
    vectors = torch.from_numpy(data.vectors[rows] * _SCALE)
    targets = Targets(
        kind=HeadKind.CHOICE,
        gold=torch.from_numpy(data.labels[rows]),
        teacher=None,
        weight=None if weights is None else torch.from_numpy(weights),
    )
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")
    loss = CrossEntropy()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        whole = loss(head(vectors), targets) + _DECAY * head.weight.square().sum()
        whole.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        return float(whole.detach())

    optimizer.step(step)  # type: ignore[no-untyped-call]  # nor for this
    return head


def _logits(head: torch.nn.Linear, vectors: Vectors) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = head(torch.from_numpy(vectors * _SCALE))
    return found


def _confidence(head: torch.nn.Linear, vectors: Vectors) -> NDArray[np.float64]:
    largest = torch.softmax(_logits(head, vectors).double(), -1).max(dim=1).values
    return np.asarray(largest.numpy(), np.float64)


def _right(head: torch.nn.Linear, data: Encoded) -> NDArray[np.bool_]:
    said = _logits(head, data.test_vectors).argmax(dim=1).numpy()
    return np.asarray(said == data.test_labels)

"""The teaching material of a run: read, deduplicated, split, checked for leaks. Done once a recipe.

Where the data has no gold labels at all, a teacher's labels take their place: those of a bundle, of
a teacher that is asked, or those that the lines bring. Everything that is measured with them says
so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from distill import interview, labeling
from distill.data import chances, deduplicate, provenance, sources, split, traffic
from distill.data.provenance import DataProvenance
from distill.data.split import Splits
from distill.progress import Narrator
from distill.recipe import Recipe
from distill.run import Run
from distill.workspace import Workspace
from gateway.contract.bundle import open_bundle
from gateway.contract.calibration import HeadReading
from gateway.contract.examples import Example
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import DataError
from gateway.students.student import Student

_ROWS_A_GROUP = 1.5  # mean; with more the rows are no longer nearly independent


@dataclass(frozen=True, slots=True)
class Material:
    """What there is to learn from and to measure on.

    `labels` says whose labels the splits hold; `asked` is the teacher that was asked for them, or
    for its scores beside gold ones. `key` names the material: equal keys, equal rows.
    """

    key: str
    task: Task
    labels: Literal["gold", "teacher"]
    splits: Splits
    provenance: DataProvenance
    seconds: dict[str, float]
    asked: str | None = None


def collect(
    recipe: Recipe,
    workspace: Workspace,
    narrator: Narrator,
    *,
    teacher: Path | None,
    ask: bool = False,
) -> Material:
    """Read, deduplicate and split the recipe's data. Raises DataError.

    `teacher` is the bundle that labels data without gold labels, and whose order of labels is taken
    over; None while there is none. `ask`: the recipe's `teacher.ask` is asked for all texts.
    """
    corpus = sources.read(recipe)
    held = interview.hold(recipe, corpus, workspace, narrator) if ask else None
    if held is not None:
        corpus = held.taught(corpus)
    task = corpus.task if teacher is None else _in_order_of(teacher, corpus.task)
    labels = corpus.labels
    if labels is None and teacher is None and not corpus.handover:
        raise DataError(
            "the data has no gold labels, and there is no teacher that gives others",
            mend="name a label column, or a teacher as teacher.bundle or teacher.ask in the recipe",
        )
    inputs: dict[str, object] = {
        "sources": dict(corpus.sources),
        "data": recipe.data.model_dump(mode="json", exclude={"severity"}),
        "seed": recipe.seed,
        "task": task.model_dump(mode="json"),
        "labelled_by": None if labels or teacher is None else open_bundle(teacher).id,
    }
    if held is not None:
        inputs["answers"] = held.digest
    with Run.open(workspace.runs, "data", inputs=inputs, on_stage=narrator.stage) as run:

        def work(folder: Path) -> None:
            rows, test = corpus.examples, corpus.test
            if labels is None and teacher is not None:
                rows, test = _labelled(teacher, rows, test, folder / "cache", narrator)
            kept, found = deduplicate.deduplicate(rows)
            biased = chances.check(kept, allow_biased=recipe.data.allow_biased)
            apart = deduplicate.deduplicate(test)[0]
            if recipe.data.handover is None:
                parts = split.split(kept, recipe.data.split, seed=recipe.seed, test=apart)
                parts = chances.evened(parts, seed=recipe.seed, own_test=bool(test))
                leaks = split.check_leaks(parts)
            else:
                handed = deduplicate.deduplicate(corpus.handover)[0]
                biased += chances.check(handed, allow_biased=recipe.data.allow_biased)
                parts, leaks = traffic.parted(recipe, kept, handed, apart)
            warnings = (*biased, *leaks, *_group_warnings(parts.certification))
            split.save(parts, folder)
            provenance.describe(corpus, found, parts, warnings=warnings).write(
                folder / "provenance.json"
            )

        folder = run.stage("collect", work)
        material = Material(
            key=run.folder.name,
            task=task,
            labels=labels or "teacher",
            splits=split.load(folder),
            provenance=provenance.read(folder / "provenance.json"),
            seconds=run.seconds,
            asked=held.teacher if held else None,
        )
    if recipe.data.handover is not None:
        traffic.check_enough(recipe, material.splits)
    _tell(material, narrator)
    return material


def _group_warnings(rows: Sequence[Example]) -> tuple[str, ...]:
    """Rows of one group are hardly independent, and the certificate takes all rows to be so."""
    groups = len({row.group or row.id for row in rows})
    if not rows or len(rows) / groups <= _ROWS_A_GROUP:
        return ()
    warning = (
        f"the {len(rows)} certification rows come from {groups} groups: the certificate counts "
        "them as independent and promises too much"
    )
    return (warning,)


def _in_order_of(teacher: Path, task: Task) -> Task:
    """The task with its heads' labels in the teacher's order, which the student then shares."""
    theirs = {head.name: head for head in open_bundle(teacher).manifest.task.heads}
    for head in task.heads:
        other = theirs.pop(head.name, None)
        if other is None or other.kind is not head.kind or {*other.labels} != {*head.labels}:
            raise DataError(
                f"the teacher {teacher.name} does not answer the head {head.name!r} "
                f"with the labels of the data: {_difference(head, other)}",
                mend="name another teacher.bundle, or make one with `understudy teach`",
            )
    if theirs:
        raise DataError(
            f"the teacher {teacher.name} also answers {', '.join(theirs)}, which the recipe lacks",
            mend="add the head to data.heads, or name another teacher.bundle",
        )
    return Task(name=task.name, heads=open_bundle(teacher).manifest.task.heads)


def _difference(head: Head, other: Head | None) -> str:
    if other is None:
        return "it has no such head"
    if other.kind is not head.kind:
        return f"its head is {other.kind}, the recipe says {head.kind}"
    only = sorted({*head.labels} ^ {*other.labels})
    return f"only one of them has {', '.join(only[:5])}"


def _labelled(
    teacher: Path,
    rows: Sequence[Example],
    test: Sequence[Example],
    cache: Path,
    narrator: Narrator,
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The same rows with the teacher's labels."""
    model = Student(open_bundle(teacher))
    texts = [row.text for row in (*rows, *test)]
    with narrator.bar("the teacher labels") as bar:
        logits = labeling.label(model, texts, cache, bar)
    readings, _ = model.calibration.read(logits)
    said = [
        replace(row, labels=_labels(model.task, readings, place), source="teacher")
        for place, row in enumerate((*rows, *test))
    ]
    return tuple(said[: len(rows)]), tuple(said[len(rows) :])


def _labels(
    task: Task, readings: Sequence[HeadReading], row: int
) -> dict[str, str | tuple[str, ...]]:
    return {
        head.name: head.labels[reading.states[row]]
        if head.kind is HeadKind.CHOICE
        else tuple(label for label, on in zip(head.labels, reading.states[row], strict=True) if on)
        for head, reading in zip(task.heads, readings, strict=True)
    }


def _tell(material: Material, narrator: Narrator) -> None:
    rows = ", ".join(f"{name} {count:,}" for name, count in material.provenance.rows.items())
    narrator.note(f"  {rows}; {material.provenance.duplicates:,} duplicates left out")
    for warning in material.provenance.warnings:
        narrator.note(f"  {warning}", style="yellow")

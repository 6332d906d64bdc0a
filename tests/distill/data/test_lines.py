"""Example lines as data: their labels are whose their source says, and faults are told by line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill import interview, pipeline, project, recipe
from distill.data import lines, sources
from distill.data.sources import Corpus
from distill.interview import Answer, Interview
from distill.progress import Narrator
from distill.project import ChatModel, HeadLabels, LabelColumn, Project
from distill.workspace import Workspace
from gateway import settings
from gateway.contract import examples
from gateway.contract.examples import Example
from gateway.contract.manifest import HeadKind
from gateway.errors import DataError, RecipeError, UsageError

HEADS: dict[str, dict[str, Any]] = {
    "intent": {"kind": "choice", "column": "intent"},
    "risk": {"kind": "flags", "column": "risk"},
}


def said(number: int, **more: Any) -> Example:
    """A line of a teacher."""
    base: dict[str, Any] = {
        "text": f"{'abcdefghij'[number % 10]} {'abcdefghij'[number // 10]}",
        "labels": {"intent": "ab"[number % 2], "risk": ("x",) if number % 3 else ()},
        "source": "teacher",
    }
    return Example(**(base | more))


def corpus(folder: Path, rows: list[Example], **data: Any) -> Corpus:
    examples.write(folder / "examples.jsonl", rows)
    return sources.read(orders(folder, **data))


def orders(folder: Path, **data: Any) -> recipe.Recipe:
    content = {
        "version": 1,
        "task": "t",
        "data": {"path": "examples.jsonl", "heads": HEADS} | data,
    }
    path = folder / recipe.FILE_NAME
    path.write_text(yaml.safe_dump(content))
    return recipe.load(path)


def test_lines_keep_all_that_they_say_of_the_recipes_heads(tmp_path: Path) -> None:
    full = said(
        0,
        labels={"intent": "b", "risk": ("y", "x"), "other": "z"},
        scores={"intent": {"b": 0.9}, "other": {"z": 1.0}},
        fields={"amount": 3},
        group="g",
        propensity=0.5,
        chosen=True,
    )
    found = corpus(tmp_path, [full, *map(said, range(1, 6)), Example("new", source="teacher")])
    assert found.labels == "teacher"
    assert found.task.heads[1].labels == ("x", "y")
    assert found.examples[0] == said(
        0,
        labels={"intent": "b", "risk": ("x", "y")},
        scores={"intent": {"b": 0.9}},
        fields={"amount": 3},
        group="g",
        propensity=0.5,
        chosen=True,
    )
    assert found.examples[6].labels == {}
    assert set(found.sources) == {"data: examples.jsonl"}


def test_one_label_of_a_teacher_makes_them_a_teachers_and_rare_ones_stay(tmp_path: Path) -> None:
    rows = [said(number, source="gold") for number in range(20)]
    assert corpus(tmp_path, rows).labels == "gold"
    rare = said(20, labels={"intent": "c", "risk": ()})
    mixed = corpus(tmp_path, [*rows, rare])
    assert mixed.labels == "teacher"
    assert mixed.task.heads[0].labels == ("a", "b", "c")
    with pytest.raises(DataError, match=r"fewer than 5 distinct examples of 'c'"):
        corpus(tmp_path, [*rows, said(20, labels={"intent": "c", "risk": ()}, source="gold")])
    assert corpus(tmp_path, [Example("a"), Example("b")], heads=LISTED).labels is None


LISTED = {
    "intent": HEADS["intent"] | {"labels": ["a", "b"]},
    "risk": HEADS["risk"] | {"labels": ["x"]},
}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (said(1, text=" "), "line 2: the text is empty"),
        (said(1, propensity=0.0), "line 2: propensity 0 is no probability"),
        (said(1, scores={"intent": {"a": 1.2}}), "line 2: the scores of the head 'intent'"),
        (said(1, labels={"intent": "a"}), "line 2: the head 'risk' has no label"),
        (said(1, labels={"intent": ("a",), "risk": ()}), "line 2: the column 'intent' is no"),
        (said(1, labels={"intent": "bb", "risk": ()}), "line 2: 'bb' is no label"),
    ],
)
def test_a_line_that_cannot_be_learnt_is_named(tmp_path: Path, row: Example, told: str) -> None:
    with pytest.raises(DataError) as refused:
        corpus(tmp_path, [said(0), row], heads=LISTED)
    assert told in refused.value.message
    assert refused.value.mend


def test_a_table_is_no_file_of_lines(tmp_path: Path) -> None:
    for name, content in (("a.csv", '{"schema_version":1,"text":"a"}'), ("a.jsonl", "{"),
                          ("b.jsonl", '{"text": "a"}')):  # fmt: skip
        (tmp_path / name).write_text(content)
        assert not lines.are_in(tmp_path / name)
    assert not lines.are_in(tmp_path / "none.jsonl")


def test_gold_labels_stay_beside_what_a_teacher_was_asked(tmp_path: Path) -> None:
    found = corpus(tmp_path, [said(number, source="gold") for number in range(20)])
    first, second, third = found.examples[:3]
    scores = {"intent": {"b": 0.7, "a": 0.3}}
    held = Interview(
        "m",
        {
            interview.key(first): Answer({"intent": "b", "risk": ()}, scores, 5),
            interview.key(second): Answer(None, {}, 5),
        },
    )
    taught = held.taught(found)
    assert taught.labels == "gold"
    assert taught.examples[0].labels == first.labels
    assert taught.examples[0].scores == scores
    assert taught.examples[1:3] == (second, third)  # where nothing can be used, gold still can
    bare = corpus(tmp_path, [Example(row.text) for row in found.examples], heads=LISTED)
    assert held.taught(bare).examples[0] == Example(
        first.text, {"intent": "b", "risk": ()}, source="teacher", scores=scores
    )
    tested = held.taught(replace(bare, test=(first,)))
    assert tested.test == (replace(first, scores=scores),)  # labels of people are never replaced
    other = Interview("m", {interview.key(first): Answer({"intent": "a"}, scores, 5)})
    assert other.digest != held.digest


def test_a_teacher_is_not_fine_tuned_on_a_teachers_labels(tmp_path: Path) -> None:
    corpus(tmp_path, [said(number) for number in range(100)])
    with pytest.raises(DataError, match="the data has a teacher's labels") as refused:
        pipeline.teach(orders(tmp_path), Workspace(tmp_path), Narrator(quiet=True))
    assert "understudy distill" in refused.value.mend


def test_labels_without_scores_do_not_feed_logits(tmp_path: Path) -> None:
    corpus(tmp_path, [said(number) for number in range(100)])
    plan = orders(tmp_path)
    training = plan.student.training.model_copy(
        update={"losses": (recipe.LossTerm(name="logit_mse"),)}
    )
    student = plan.student.model_copy(update={"training": training})
    with pytest.raises(RecipeError, match="has only logit_mse, and the data has labels without"):
        pipeline.distill(
            plan.model_copy(update={"student": student}),
            Workspace(tmp_path),
            Narrator(quiet=True),
        )


def test_init_takes_heads_from_lines_and_writes_settings_where_the_teacher_has_a_name(
    tmp_path: Path,
) -> None:
    rows = [said(number) for number in range(20)]
    examples.write(tmp_path / "examples.jsonl", rows)
    plain = Project(task="t", data=tmp_path / "examples.jsonl")
    (written,) = project.create(tmp_path / "one", plain)
    heads = recipe.load(written).data.heads
    assert {name: (head.kind, head.labels) for name, head in heads.items()} == {
        "intent": (HeadKind.CHOICE, ("a", "b")),
        "risk": (HeadKind.FLAGS, ("x",)),
    }
    losses = recipe.load(written).student.training.losses
    assert [(term.name, term.temperature) for term in losses] == [("kl", 1.0)]
    model = ChatModel.named("https://models.example/v1", "large", "main")
    named = Project(task="t", data=tmp_path / "examples.jsonl", asked=model)
    path, config = project.create(tmp_path / "two", named)
    asked = recipe.load(path).teacher.ask
    served = settings.load(config).tasks["t"].teacher
    assert asked is not None
    assert asked.openai == served.openai
    assert asked.openai is not None
    assert (asked.openai.model, asked.openai.key) == ("large", "main")
    empty = tmp_path / "empty.jsonl"
    examples.write(empty, [Example("a")])
    with pytest.raises(UsageError, match="no line has a label"):
        project.create(tmp_path / "three", Project(task="t", data=empty))


def test_labels_and_a_chat_model_are_named_whole_or_refused() -> None:
    assert HeadLabels.parse("risk:flags=x, y") == HeadLabels("risk", ("x", "y"), HeadKind.FLAGS)
    for text in ("risk", "risk=a,,b"):
        with pytest.raises(UsageError, match=f"--labels {text}: no head with labels"):
            HeadLabels.parse(text)
    assert ChatModel.named(None, None, None) is None
    with pytest.raises(UsageError, match="--teacher-key alone names no teacher"):
        ChatModel.named(None, None, "main")
    assert LabelColumn.parse("risk:flags").kind is HeadKind.FLAGS


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ({"ask": {"scripted": {}}, "bundle": "b"}, "bundle and ask are two teachers"),
        ({"max_usd": 1}, "max_usd limits what asking costs, and ask names no teacher"),
        ({"ask": {}}, "name one kind of teacher"),
    ],
)
def test_a_recipe_names_one_teacher(tmp_path: Path, teacher: dict[str, Any], told: str) -> None:
    content = {"version": 1, "task": "t", "data": {"path": "a.csv", "heads": HEADS}}
    with pytest.raises(RecipeError) as refused:
        recipe.parse(content | {"teacher": teacher}, path=tmp_path / recipe.FILE_NAME)
    assert told in refused.value.message


def test_keys_that_came_later_leave_a_recipes_hash_as_it_was(tmp_path: Path) -> None:
    dumped = orders(tmp_path).model_dump(mode="json")
    assert dumped["teacher"].keys().isdisjoint({"ask", "max_usd"})
    assert "allow_biased" not in dumped["data"]

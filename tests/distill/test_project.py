"""A project: what `understudy init` writes can be loaded at once, and is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distill import project, recipe
from distill.data import sources
from distill.project import LabelColumn, Project
from gateway import settings
from gateway.contract.manifest import HeadKind
from gateway.errors import BundleMissing, DataError, RecipeError, UnderstudyError, UsageError
from tests.factories import TASK, tiny_bundle


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of ten rows with two classes, a flag, a group and a field."""
    path = tmp_path / "data" / "tickets.csv"
    path.parent.mkdir()
    rows = [f"text {n},{'ab'[n % 2]},fraud,c{n},{n}.5" for n in range(10)]
    path.write_text("\n".join(["text,Ticket Category,risk,customer,amount", *rows]) + "\n")
    return path


def described(file: Path, **other: object) -> Project:
    base: dict[str, object] = {
        "task": "tickets",
        "data": file,
        "label_columns": [LabelColumn("Ticket Category")],
    }
    return Project(**(base | other))  # type: ignore[arg-type]


def test_the_recipe_has_the_users_values_and_else_the_defaults(tmp_path: Path, data: Path) -> None:
    told = described(
        data,
        label_columns=[LabelColumn("Ticket Category"), LabelColumn("risk", HeadKind.FLAGS)],
        test=data,
        unlabelled=data,
        group_column="customer",
        field_columns=["amount"],
    )
    path, _ = project.create(tmp_path / "new", told)
    smallest = f"""
version: 1
task: tickets
data:
  path: {data}
  test: {data}
  unlabelled: {data}
  group_column: customer
  field_columns: [amount]
  heads:
    Ticket_Category: {{kind: choice, column: Ticket Category}}
    risk: {{kind: flags, column: risk}}
"""
    assert recipe.load(path) == recipe.parse(yaml.safe_load(smallest), path=path)


def test_every_key_that_a_recipe_knows_is_written(tmp_path: Path, data: Path) -> None:
    path, _ = project.create(tmp_path, described(data))
    written = yaml.safe_load(path.read_text())
    known = recipe.load(path).model_dump(mode="json")
    assert written.keys() == known.keys()
    for section in ("teacher", "student", "certificate", "gates", "prices", "data"):
        assert written[section].keys() == known[section].keys()


def test_the_settings_name_the_task(tmp_path: Path, data: Path) -> None:
    _, path = project.create(tmp_path, described(data))
    assert path.name == "understudy.yaml"
    assert yaml.safe_load(path.read_text()) == {
        "version": 1,
        "server": {"host": "127.0.0.1", "port": 8080},
        "tasks": {
            "tickets": {
                "student": {"bundle": "bundles/student"},
                "teacher": {"bundle": "bundles/teacher"},
                "policy": {"rules": []},
                "audit": {"share": 0.02},
                "prices": {"teacher_usd_per_1000": None, "instance_usd_per_hour": None},
            }
        },
        "records": {"path": "understudy.db", "text": "hash"},
    }


def test_paths_are_written_as_seen_from_the_recipe(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = data.relative_to(tmp_path)
    path, _ = project.create(Path("some/where"), described(relative))
    read = recipe.load(path)
    assert read.data.path == Path("../../data/tickets.csv")
    assert read.resolve(read.data.path).is_file()


def test_names_that_yaml_would_read_as_something_else_are_quoted(tmp_path: Path) -> None:
    names = ["yes", "a: b #c", '"q"', "123", "t\u00e9xt", "null"]
    cells = [f"text {n}" for n in range(10)]
    kinds = ["on" if n % 2 else "1.0" for n in range(10)]
    header = ",".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in names)
    path = tmp_path / "odd.csv"
    path.write_text(
        "\n".join([header, *[f"{c},{k},,,,g" for c, k in zip(cells, kinds, strict=True)]])
    )
    told = described(
        path,
        task="007",
        text_column="yes",
        label_columns=[LabelColumn("a: b #c")],
        group_column="null",
        field_columns=['"q"', "123", "t\u00e9xt"],
    )
    written, settings = project.create(tmp_path, told)
    read = recipe.load(written)
    assert (read.task, read.data.text_column, read.data.group_column) == ("007", "yes", "null")
    assert read.data.field_columns == ('"q"', "123", "t\u00e9xt")
    assert read.data.heads["a_b_c"].column == "a: b #c"
    assert list(yaml.safe_load(settings.read_text())["tasks"]) == ["007"]


def test_a_column_without_latin_letters_gets_a_numbered_head(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"text {n},{'ab'[n % 2]}" for n in range(10)]
    path.write_text("\n".join(["text,\u7c7b\u522b", *rows]), encoding="utf-8")
    told = described(path, label_columns=[LabelColumn("\u7c7b\u522b")])
    written, _ = project.create(tmp_path, told)
    assert recipe.load(written).data.heads["head_1"].column == "\u7c7b\u522b"


@pytest.mark.parametrize(
    ("other", "error", "told"),
    [
        ({"data": Path("none.csv")}, DataError, "cannot be read"),
        ({"text_column": "txt"}, DataError, "no column 'txt'; did you mean 'text'?"),
        ({"label_columns": [LabelColumn("ticket")]}, DataError, "no column 'ticket'"),
        ({"label_columns": [LabelColumn("customer")]}, DataError, "fewer than 5 distinct examples"),
        ({"label_columns": []}, UsageError, "no labels are named"),
        (
            {"label_columns": [LabelColumn("risk"), LabelColumn("risk!")]},
            UsageError,
            "--label-column risk!: a head 'risk' is there already",
        ),
        ({"task": "my tickets"}, RecipeError, "task: String should match"),
        ({"label_columns": [LabelColumn("text")]}, RecipeError, "the column 'text' is the text or"),
    ],
)
def test_a_project_that_could_not_be_trained_is_not_written(
    tmp_path: Path, data: Path, other: dict[str, object], error: type[UnderstudyError], told: str
) -> None:
    with pytest.raises(error) as caught:
        project.create(tmp_path / "new", described(data, **other))
    assert told in caught.value.message
    assert caught.value.mend
    assert not (tmp_path / "new").exists()


def test_files_that_are_there_are_kept_unless_forced(tmp_path: Path, data: Path) -> None:
    (tmp_path / "understudy.yaml").write_text("mine")
    with pytest.raises(UsageError, match=r"understudy\.yaml would be overwritten"):
        project.create(tmp_path, described(data))
    assert (tmp_path / "understudy.yaml").read_text() == "mine"
    assert not (tmp_path / "recipe.yaml").exists()
    project.create(tmp_path, described(data), force=True)
    assert (tmp_path / "understudy.yaml").read_text() != "mine"


def test_nothing_is_half_written(tmp_path: Path, data: Path) -> None:
    (tmp_path / ".understudy.yaml.writing").mkdir()  # so that the second file cannot be written
    with pytest.raises(UsageError, match="cannot be written"):
        project.create(tmp_path, described(data))
    assert not list(tmp_path.glob("*.yaml"))


def test_no_scratch_file_is_left(tmp_path: Path, data: Path) -> None:
    project.create(tmp_path / "new", described(data))
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["recipe.yaml", "understudy.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("category", LabelColumn("category", HeadKind.CHOICE)),
        ("category:choice", LabelColumn("category", HeadKind.CHOICE)),
        ("risk:flags", LabelColumn("risk", HeadKind.FLAGS)),
        ("a:b:flags", LabelColumn("a:b", HeadKind.FLAGS)),
    ],
)
def test_a_label_column_says_its_kind_after_a_colon(text: str, expected: LabelColumn) -> None:
    assert LabelColumn.parse(text) == expected


@pytest.mark.parametrize("text", ["risk:flag", ":flags"])
def test_an_unknown_kind_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--label-column {text}"):
        LabelColumn.parse(text)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of texts without labels."""
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + "".join(f"text {n}\n" for n in range(10)))
    return path


def test_a_teacher_brings_the_heads_and_labels_to_texts_that_have_none(
    tmp_path: Path, texts: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "bundles", role="teacher")
    told = Project(task="tickets", data=texts, teacher=bundle)
    path, served = project.create(tmp_path / "new", told)
    read = recipe.load(path)
    assert read.resolve(read.teacher.bundle or Path()) == bundle
    assert [
        (name, head.kind, head.column, head.labels) for name, head in read.data.heads.items()
    ] == [(head.name, head.kind, head.name, head.labels) for head in TASK.heads]
    corpus = sources.read(read)
    assert corpus.task.heads == TASK.heads
    assert [each.source for each in corpus.examples] == ["unlabelled"] * 10
    assert settings.load(served).tasks["tickets"].teacher.bundle == bundle


def test_a_column_of_gold_labels_joins_the_teachers_head_of_its_name(
    tmp_path: Path, texts: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "bundles", role="teacher")
    first = TASK.heads[0]
    with pytest.raises(UsageError, match="the teacher has no choice head 'mood'"):
        project.create(tmp_path, Project("tickets", texts, [LabelColumn("mood")], teacher=bundle))
    rows = texts.read_text().splitlines()[1:]
    texts.write_text(
        f"text,{first.name},flags\n"
        + "".join(f"{row},{first.labels[n % 2]},\n" for n, row in enumerate(rows))
    )
    # Five rows of the first label and five of the second; none of the third, nor of a flag.
    with pytest.raises(DataError, match=r"'other' of the head 'intent' \(0\)"):
        project.create(
            tmp_path, Project("tickets", texts, [LabelColumn(first.name)], teacher=bundle)
        )


def test_without_labels_and_without_a_teacher_both_ways_are_named(
    tmp_path: Path, texts: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        project.create(tmp_path, Project("tickets", texts))
    assert "--label-column" in caught.value.mend
    assert "--teacher" in caught.value.mend


def test_a_teacher_that_is_not_there_is_told_before_anything_is_written(
    tmp_path: Path, texts: Path
) -> None:
    with pytest.raises(BundleMissing):
        project.create(tmp_path / "new", Project("t", texts, teacher=tmp_path / "none"))
    assert not (tmp_path / "new").exists()

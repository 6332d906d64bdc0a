"""The recipe: its defaults, its hash, and every mistake told with its place and its mend."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from distill import recipe
from distill.recipe import LossTerm
from gateway.contract.manifest import HeadKind
from gateway.errors import RecipeError

SMALLEST = """\
version: 1
task: tickets
data:
  path: tickets.csv
  heads:
    category: {kind: choice, column: category}
"""

WHOLE = """\
version: 1
task: tickets
data:
  path: tickets.csv
  test: null
  unlabelled: null
  text_column: text
  group_column: null
  field_columns: []
  heads:
    category: {kind: choice, column: category}
  severity: {}
  split: {calibration: 0.05, certification: 0.1, test: 0.15}
teacher:
  bundle: null
  base: minilm
  layers: 6
  training:
    epochs: 6
    batch: 32
    learning_rate: 1.0e-4
    head_learning_rate: 2.0e-3
    dropout: 0.1
    losses: [{name: cross_entropy, weight: 1.0}]
student:
  layers: [0, 1]
  max_tokens: 64
  prune_vocabulary: true
  augment: 2
  training:
    epochs: 5
    batch: 32
    learning_rate: 3.0e-4
    head_learning_rate: 2.0e-3
    dropout: 0.0
    losses: [{name: kl, weight: 1.0, temperature: 2.0}, {name: logit_mse, weight: 0.3}]
certificate: {alpha: 0.02, delta: 0.05}
gates: {label_flips: 0.005, confident_flips: 0.001}
prices: {teacher_usd_per_1000: null, instance_usd_per_hour: null}
seed: 0
"""

PATH = Path("project/recipe.yaml")


def parsed(text: str) -> recipe.Recipe:
    return recipe.parse(yaml.safe_load(text), path=PATH)


def mistake(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parsed(text)
    assert caught.value.mend
    return caught.value.message


def test_what_is_not_written_has_the_documented_default() -> None:
    assert parsed(SMALLEST) == parsed(WHOLE)


def test_a_file_is_read_and_its_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(SMALLEST)
    read = recipe.load(tmp_path / "recipe.yaml")
    assert read.folder == tmp_path
    assert read.resolve(read.data.path) == tmp_path / "tickets.csv"
    assert read.resolve(Path("../more.csv")) == tmp_path.parent / "more.csv"
    assert read.resolve(Path("/data/more.csv")) == Path("/data/more.csv")


def test_values_arrive_with_their_types() -> None:
    text = SMALLEST.replace("choice", "flags") + (
        "prices: {teacher_usd_per_1000: 0.4}\n"
        "student: {training: {epochs: 1, learning_rate: 1e-4, losses: [{name: logit_mse}]}}\n"
    )
    read = parsed(text)
    assert read.data.heads["category"].kind is HeadKind.FLAGS
    assert read.prices.teacher_usd_per_1000 == Decimal("0.4")
    assert read.student.training.learning_rate == 0.0001  # YAML 1.1 reads 1e-4 as text
    assert read.student.training.losses == (LossTerm(name="logit_mse", weight=1.0),)


def test_the_hash_is_of_the_content_and_not_of_its_form_or_folder() -> None:
    told = "seed: 0\n# a comment\n" + SMALLEST
    moved = recipe.parse(yaml.safe_load(told), path=Path("elsewhere/other.yaml"))
    assert parsed(SMALLEST).hash == moved.hash
    assert parsed(SMALLEST).hash == parsed(WHOLE).hash
    assert len(parsed(SMALLEST).hash) == 64


@pytest.mark.parametrize(
    "other",
    [
        SMALLEST + "seed: 1\n",
        SMALLEST.replace("tickets.csv", "other.csv"),
        SMALLEST + "student: {layers: [0]}\n",
    ],
)
def test_another_content_has_another_hash(other: str) -> None:
    assert parsed(other).hash != parsed(SMALLEST).hash


@pytest.mark.parametrize(
    ("said", "method"),
    [("true", "mahalanobis"), ("false", "none"), ("knn", "knn"), ("none", "none")],
)
def test_how_strange_texts_are_told_is_chosen_or_said_as_before(said: str, method: str) -> None:
    assert parsed(SMALLEST + f"score: {{out_of_domain: {said}}}\n").score.out_of_domain == method


def test_a_recipe_from_before_there_was_a_choice_keeps_its_hash() -> None:
    content = parsed(SMALLEST).model_dump(mode="json")
    assert content["score"] == {"correctness": True, "out_of_domain": True}
    switched, named = (f"score: {{out_of_domain: {each}}}\n" for each in ("true", "mahalanobis"))
    assert parsed(SMALLEST + switched).hash == parsed(SMALLEST + named).hash
    other = parsed(SMALLEST + "score: {out_of_domain: knn}\n").hash
    assert other != parsed(SMALLEST).hash


def test_a_method_that_there_is_not_is_told() -> None:
    assert "score.out_of_domain" in mistake(SMALLEST + "score: {out_of_domain: gmm}\n")


def test_the_order_of_heads_is_content() -> None:
    one, two = "    a: {kind: choice, column: a}\n", "    b: {kind: flags, column: b}\n"
    start = SMALLEST[: SMALLEST.index("    category")]
    assert parsed(start + one + two).hash != parsed(start + two + one).hash


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("taks: x\n" + SMALLEST, "taks: unknown key; did you mean 'task'?"),
        (SMALLEST.replace("  path", "  pth: x\n  path"), "data.pth: unknown key; did you mean"),
        (
            SMALLEST.replace("column: category", "column: category, colum: x"),
            "data.heads.category.colum: unknown key; did you mean 'column'?",
        ),
        (
            SMALLEST.replace("category: {", "kind: {zzz: 1, "),
            "data.heads.kind.zzz: unknown key",
        ),
        (
            SMALLEST + "student: {training: {epochs: 1, learning_rate: 0.1, losses: "
            "[{name: kl, wieght: 1}]}}",
            "student.training.losses.0.wieght: unknown key; did you mean 'weight'?",
        ),
        (SMALLEST.replace("task: tickets\n", ""), "task: this key is required"),
        (SMALLEST.replace("version: 1", "version: 2"), "version: Input should be 1 (it is 2)"),
        (SMALLEST.replace("task: tickets", "task: 'my task'"), "task: String should match"),
        (SMALLEST.replace("kind: choice", "kind: choise"), "data.heads.category.kind: Input"),
        (
            SMALLEST.replace("category: {", "my head: {"),
            "data.heads.my head.[key]: String should match",
        ),
        (
            SMALLEST + "teacher: none\n",
            "teacher: Input should be a valid dictionary or instance of TeacherPlan",
        ),
        (SMALLEST + "certificate: {alpha: 0}\n", "certificate.alpha: Input should be greater"),
        (SMALLEST + "certificate: {delta: .nan}\n", "certificate.delta: Input should be a finite"),
        (SMALLEST + "gates: {label_flips: 1.5}\n", "gates.label_flips: Input should be less"),
        (SMALLEST + "prices: {teacher_usd_per_1000: -1}\n", "prices.teacher_usd_per_1000: Input"),
        (SMALLEST + "seed: -1\n", "seed: Input should be greater than or equal to 0 (it is -1)"),
        (SMALLEST + "student: {layers: [1, 0]}\n", "student: layers must ascend"),
        (SMALLEST + "student: {layers: [0, 0]}\n", "student: layers must ascend"),
        (SMALLEST + "student: {max_tokens: 4}\n", "student.max_tokens: Input should be greater"),
        (SMALLEST + "student: {layers: [0, 6]}\n", "the document: student.layers names layer 6"),
        (
            SMALLEST + "  split: {calibration: 0.5, certification: 0.3, test: 0.2}\n",
            "data: split holds out 1.00 of the rows",
        ),
        (
            SMALLEST + "  split: {calibration: 0.0}\n",
            "data.split.calibration: Input should be greater than 0",
        ),
        (
            SMALLEST + "  severity: {categry: {a: 2}}\n",
            "data: severity names 'categry'; did you mean 'category'?",
        ),
        (
            SMALLEST + "  text_column: category\n",
            "data: the column 'category' is the text or a head more than once",
        ),
        (
            SMALLEST.replace("column: category", "column: c, labels: [a, a]"),
            "data.heads.category: labels names a label twice",
        ),
        (
            SMALLEST.replace("column: category", "column: c, labels: [a]"),
            "data.heads.category: a choice needs two labels or more",
        ),
        (
            SMALLEST.replace("column: category", "column: c, labels: [yes, no]"),
            "data.heads.category.labels.0: Input should be a valid string (it is True)",
        ),
    ],
)
def test_a_mistake_is_told_with_file_key_and_value(text: str, told: str) -> None:
    assert mistake(text).startswith(f"{PATH}: {told}")


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ("epochs: 0, learning_rate: 0.1, losses: [{name: kl}]", "epochs: Input should be greater"),
        ("epochs: 1, learning_rate: 0.1, losses: []", "losses: Tuple should have at least 1"),
        ("epochs: 1, losses: [{name: kl}]", "learning_rate: this key is required"),
        ("epochs: 1, learning_rate: 0.1, losses: [{name: mse}]", "losses.0.name: Input should"),
        (
            "epochs: 1, learning_rate: 0.1, losses: [{name: kl, temperature: 0}]",
            "losses.0.temperature: Input should be greater than 0",
        ),
        (
            "epochs: 1, learning_rate: 0.1, losses: [{name: logit_mse, temperature: 2}]",
            "losses.0: logit_mse has no temperature; only kl has one",
        ),
    ],
)
def test_a_mistake_in_the_training_is_told(training: str, told: str) -> None:
    text = f"{SMALLEST}student: {{training: {{{training}}}}}\n"
    assert mistake(text).startswith(f"{PATH}: student.training.{told}")


def test_a_loss_is_named_once() -> None:
    text = "student: {training: {epochs: 1, learning_rate: 0.1, losses: [{name: kl}, {name: kl}]}}"
    assert "student.training: losses names a loss twice" in mistake(SMALLEST + text)


def test_a_teacher_cannot_learn_from_a_teacher() -> None:
    text = "teacher: {training: {epochs: 1, learning_rate: 0.1, losses: [{name: kl}]}}"
    assert "teacher: the loss kl needs a teacher" in mistake(SMALLEST + text)


def test_all_mistakes_are_told_at_once_one_a_line() -> None:
    told = mistake("taks: x\nversion: 1\ndata: {path: a.csv, heads: {}}\nseed: x\n").splitlines()
    keys = sorted(line.split(": ")[1] for line in told)
    assert keys == ["data.heads", "seed", "taks", "task"]


def test_a_given_test_file_leaves_its_share_to_train() -> None:
    shares = "  test: t.csv\n  split: {calibration: 0.5, certification: 0.3, test: 0.2}\n"
    assert parsed(SMALLEST + shares).data.split.test == 0.2


def test_a_given_teacher_bundle_may_have_any_layers() -> None:
    text = SMALLEST + "teacher: {bundle: b}\nstudent: {layers: [0, 11]}\n"
    assert parsed(text).student.layers == (0, 11)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (SMALLEST.encode() + b"task: other\n", "the key 'task' is written twice"),
        (b"version: 1\ntask: [\n", "line 3"),
        (b"task: caf\xe9\n", "not YAML"),
        (b"- version\n", "not a mapping of keys"),
        (b"", "empty"),
        (SMALLEST.encode() + b"folder: x\n", "folder: a recipe's folder is where it stands"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert told in caught.value.message
    assert caught.value.mend


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        recipe.load(tmp_path / "none.yaml")


def test_the_hint_is_the_nearest_word_or_all_words() -> None:
    assert recipe.hint("categry", ["category", "text"]) == "; did you mean 'category'?"
    assert recipe.hint("zzz", ["category", "text"]) == "; known are category, text"
    assert recipe.hint("zzz", []) == ""


def test_a_skill_that_looks_at_a_student_is_refused_where_there_is_none() -> None:
    ask = {
        "ensemble": {
            "mode": "first",
            "members": {"a": {"scripted": {}}, "b": {"scripted": {}}},
            "default": "a",
            "skills": [{"member": "b", "when": {"name": "court", "text": "court"}}],
        }
    }
    content = yaml.safe_load(SMALLEST) | {"teacher": {"ask": ask}}
    assert recipe.parse(content, path=Path("recipe.yaml")).teacher.ask is not None
    when = {"name": "refunds", "head": "category", "labels": ["refund"]}
    ask["ensemble"]["skills"] = [{"member": "b", "when": when}]
    with pytest.raises(RecipeError, match="the skill 'refunds' looks at what a student says"):
        recipe.parse(content, path=Path("recipe.yaml"))

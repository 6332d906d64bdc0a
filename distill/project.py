"""A project: the recipe and the gateway's settings that `understudy init` writes.

The data is read first, so that a wrong column is told now and not after an hour of training. It
writes both files or neither, and refuses to overwrite what a person may have edited.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from distill import recipe
from distill.data import lines, sources
from distill.data.lines import Lines
from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import Head, HeadKind
from gateway.errors import UsageError

SETTINGS_NAME = "understudy.yaml"

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")  # what YAML takes without quotes


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A column of gold labels and the kind of head that it makes."""

    column: str
    kind: HeadKind = HeadKind.CHOICE

    @classmethod
    def parse(cls, text: str) -> LabelColumn:
        """`column` or `column:flags`; the column's own colons are kept if a kind follows them."""
        column, colon, kind = text.rpartition(":")
        if not colon:
            return cls(text)
        if kind not in set(HeadKind) or not column:
            raise UsageError(
                f"--label-column {text}: no kind {kind!r}{recipe.hint(kind, HeadKind)}",
                mend="write COLUMN, COLUMN:choice or COLUMN:flags",
            )
        return cls(column, HeadKind(kind))


@dataclass(frozen=True, slots=True)
class HeadLabels:
    """A head and all its labels, of texts that nobody has labelled yet."""

    name: str
    labels: tuple[str, ...]
    kind: HeadKind = HeadKind.CHOICE

    @classmethod
    def parse(cls, text: str) -> HeadLabels:
        """`HEAD=a,b,c` or `HEAD:flags=a,b,c`."""
        head, equals, listed = text.partition("=")
        column = LabelColumn.parse(head)
        labels = tuple(label.strip() for label in listed.split(","))
        if not equals or not all(labels):
            raise UsageError(
                f"--labels {text}: no head with labels",
                mend="write HEAD=a,b,c or HEAD:flags=a,b,c",
            )
        return cls(column.column, labels, column.kind)


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A teacher behind an OpenAI-compatible endpoint; `key` is its name in the environment."""

    url: str
    model: str
    key: str | None = None

    @classmethod
    def named(cls, url: str | None, model: str | None, key: str | None) -> ChatModel | None:
        """The model that the options name; None where they name none. Raises UsageError."""
        if url is not None and model is not None:
            return cls(url, model, key)
        if given := [name for name, each in (("url", url), ("model", model), ("key", key)) if each]:
            raise UsageError(
                f"--teacher-{given[0]} alone names no teacher",
                mend="give --teacher-url and --teacher-model",
            )
        return None


@dataclass(frozen=True, slots=True)
class Project:
    """What a person says about a new project. Paths are relative to the working folder.

    With a `teacher` bundle its manifest names the heads and their labels; label columns, where
    there are any, then hold gold labels for the heads of their names. Data of Example lines brings
    heads and labels along. `asked` is a teacher that labels by being asked; the `labels` of heads
    that no column has tell it what to choose from.
    """

    task: str
    data: Path
    label_columns: Sequence[LabelColumn] = ()
    labels: Sequence[HeadLabels] = ()
    teacher: Path | None = None
    asked: ChatModel | None = None
    text_column: str = "text"
    test: Path | None = None
    unlabelled: Path | None = None
    group_column: str | None = None
    field_columns: Sequence[str] = ()


def create(folder: Path, project: Project, *, force: bool = False) -> list[Path]:
    """Read the data, then write recipe.yaml and understudy.yaml into `folder`; returns the paths.

    Where a teacher's answers are all that is known of it, no settings can be written: there are
    some already, of the gateway that recorded them, or they want a teacher's name.

    Raises UsageError when a file is there already (unless `force`) or cannot be written,
    BundleError when the teacher cannot be opened, RecipeError or DataError when the project could
    not be trained as it is described.
    """
    files = {folder / recipe.FILE_NAME: _recipe_text(folder, project)}
    if not _is_nameless(project):
        files[folder / SETTINGS_NAME] = _settings_text(folder, project)
    if (there := [str(path) for path in files if path.exists()]) and not force:
        raise UsageError(
            f"{' and '.join(there)} would be overwritten",
            mend="name another folder with --out, or overwrite with --force",
        )
    path, text = next(iter(files.items()))
    sources.read(recipe.parse(yaml.safe_load(text), path=path))
    try:
        _write_all(files)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written: {error.strerror}",
            mend="name a folder that you may write to with --out",
        ) from error
    return list(files)


def _write_all(files: Mapping[Path, str]) -> None:
    """Write all files whole before the first of them gets its name."""
    scratch = {path: path.with_name(f".{path.name}.writing") for path in files}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch[path].write_text(text, encoding="utf-8")
        for path in files:
            scratch[path].replace(path)
    finally:
        for each in scratch.values():
            each.unlink(missing_ok=True)


def _is_nameless(project: Project) -> bool:
    """Whether the teacher is known by its answers alone."""
    named = project.teacher is not None or project.asked is not None
    return not named and lines.teacher_labelled(project.data)


def _settings_text(folder: Path, project: Project) -> str:
    taught = "bundles/teacher" if project.teacher is None else _path(project.teacher, folder)
    teacher = f"bundle: {taught}" if project.asked is None else _openai(project.asked, indent=6)
    return _SETTINGS.substitute(task=_scalar(project.task), teacher=teacher)


def _openai(chat: ChatModel, *, indent: int) -> str:
    """The keys of a chat teacher, the first of them where the template stands already."""
    keys = [f"url: {_scalar(chat.url)}", f"model: {_scalar(chat.model)}"]
    keys += [f"key: {_scalar(chat.key)}"] if chat.key else []
    return "\n".join(["openai:", *(f"{' ' * (indent + 2)}{each}" for each in keys)])


def _recipe_text(folder: Path, project: Project) -> str:
    return _RECIPE.substitute(
        task=_scalar(project.task),
        path=_path(project.data, folder),
        test=_path(project.test, folder),
        unlabelled=_path(project.unlabelled, folder),
        text_column=_scalar(project.text_column),
        group_column=_scalar(project.group_column),
        field_columns=f"[{', '.join(map(_scalar, project.field_columns))}]",
        heads=_heads(project),
        teacher=_path(project.teacher, folder),
        ask=_ASK.substitute(openai=_openai(project.asked, indent=4)) if project.asked else "",
        losses=_LOSSES_OF_ANSWERS if _knows_no_logits(project) else _LOSSES_OF_LOGITS,
    )


def _knows_no_logits(project: Project) -> bool:
    return project.asked is not None or _is_nameless(project)


def _heads(project: Project) -> str:
    """The heads of the recipe, a line each, in the order of the model's outputs."""
    columns = _by_head(project.label_columns)
    if project.teacher is not None:
        return _heads_of_teacher(project.teacher, columns)
    if not columns and project.labels:
        heads = [
            Head(name=each.name, kind=each.kind, labels=each.labels) for each in project.labels
        ]
        return "\n".join(_head(head, None) for head in heads)
    if not columns and lines.are_in(project.data):
        return _heads_of_lines(lines.read(project.data))
    if not columns:
        raise UsageError(
            "no labels are named",
            mend="add --label-column COLUMN; for texts without labels name a teacher with "
            "--teacher BUNDLE, or with --teacher-url URL and --labels HEAD=a,b,c",
        )
    return "\n".join(
        f"    {_scalar(name)}: {{kind: {each.kind}, column: {_scalar(each.column)}}}"
        for name, each in columns.items()
    )


def _heads_of_lines(found: Lines) -> str:
    """The heads that Example lines have labels of, with those labels, sorted."""
    kinds: dict[str, HeadKind] = {}
    labels: dict[str, set[str]] = {}
    for row in found.examples:
        for name, said in row.labels.items():
            kinds.setdefault(name, HeadKind.CHOICE if isinstance(said, str) else HeadKind.FLAGS)
            labels.setdefault(name, set()).update((said,) if isinstance(said, str) else said)
    if not kinds:
        raise UsageError(
            f"{found.path}: no line has a label",
            mend="add --labels HEAD=a,b,c and a teacher that gives them",
        )
    return "\n".join(
        _listed(name, kind, name, sorted(labels[name])) for name, kind in kinds.items()
    )


def _heads_of_teacher(path: Path, columns: Mapping[str, LabelColumn]) -> str:
    """The heads of a bundle with all their labels, so that no text has to have one."""
    heads = {head.name: head for head in open_bundle(path).manifest.task.heads}
    for name, each in columns.items():
        if name not in heads or heads[name].kind is not each.kind:
            raise UsageError(
                f"--label-column {each.column}: the teacher has no {each.kind} head "
                f"{name!r}{recipe.hint(name, heads)}",
                mend="leave the option out, or name a column as the teacher's head is named",
            )
    return "\n".join(_head(head, columns.get(head.name)) for head in heads.values())


def _head(head: Head, gold: LabelColumn | None) -> str:
    return _listed(head.name, head.kind, gold.column if gold else head.name, head.labels)


def _listed(name: str, kind: HeadKind, column: str, labels: Sequence[str]) -> str:
    listed = ", ".join(map(_scalar, labels))
    return f"    {_scalar(name)}: {{kind: {kind}, column: {_scalar(column)}, labels: [{listed}]}}"


def _by_head(columns: Sequence[LabelColumn]) -> dict[str, LabelColumn]:
    """Name of the head that a column makes -> the column."""
    heads: dict[str, LabelColumn] = {}
    for number, each in enumerate(columns, 1):
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", each.column).strip("_.-") or f"head_{number}"
        if name in heads:
            raise UsageError(
                f"--label-column {each.column}: a head {name!r} is there already",
                mend="name each label column once, or rename the column",
            )
        heads[name] = each
    return heads


def _path(path: Path | None, folder: Path) -> str:
    """A path as seen from the folder of the recipe; an absolute one stays as it is."""
    if path is None or path.is_absolute():
        return _scalar(str(path) if path else None)
    return _scalar(Path(os.path.relpath(path, folder)).as_posix())


def _scalar(value: str | None) -> str:
    """A YAML scalar, quoted where YAML would read something else than this text."""
    if value is None:
        return "null"
    if _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


_ASK = Template("""\
  # Asked for every text, once; described as in understudy.yaml. Its key stands in the environment.
  ask:
    $openai
    concurrency: 16            # texts at once
  max_usd: null                # all that asking may cost; it stops there, and goes on when raised
""")

# A bundle's own logits can be imitated; of answers only the probabilities are known, or the label.
_LOSSES_OF_LOGITS = """\
      - {name: kl, weight: 1.0, temperature: 2.0}
      - {name: logit_mse, weight: 0.3}"""
_LOSSES_OF_ANSWERS = """\
      - {name: kl, weight: 1.0, temperature: 1.0}"""

_RECIPE = Template("""\
# What to train, from which data, under which promises. Paths start at this file's folder.
version: 1
task: $task

data:
  # CSV, JSONL or Parquet, by the file's extension.
  path: $path
  # A file of its own for the test split; null: a share of path.
  test: $test
  # More texts; labels are not needed: the teacher labels them.
  unlabelled: $unlabelled
  # The column that holds the texts.
  text_column: $text_column
  # Rows of one group (a customer, a thread) are never parted.
  group_column: $group_column
  # Columns that risk rules may read.
  field_columns: $field_columns
  # One entry a decision. choice: one label of many; flags: any number, as "a|b" or a JSON list.
  # labels: [...] lists all labels; it is needed only where the data has none.
  heads:
$heads
  severity: {}                 # head -> label -> weight of an error on it; 1 where not named
  split:                       # shares of the labelled rows; the rest is train
    calibration: 0.05          # fits the confidence
    certification: 0.1         # finds the threshold and proves its promise
    test: 0.15                 # measures, and is touched once; ignored if data.test is given

teacher:
  # A teacher bundle that exists; null: `understudy teach` makes one.
  bundle: $teacher
${ask}  base: minilm                 # minilm, or a folder with a BERT-shaped model
  layers: 6                    # how many of its layers are kept
  training:
    epochs: 6
    batch: 32                  # rows of one step
    learning_rate: 1.0e-4      # of the encoder
    head_learning_rate: 2.0e-3 # of the new heads
    dropout: 0.1
    losses:
      - {name: cross_entropy, weight: 1.0}

student:
  layers: [0, 1]               # taken from the teacher, or from base if it is no encoder
  max_tokens: 64               # longer texts are cut, and go to the teacher
  prune_vocabulary: true       # drop rare tokens that the data never uses
  augment: 2                   # noisy copies of each text, which the teacher labels too
  training:
    epochs: 5
    batch: 32
    learning_rate: 3.0e-4
    head_learning_rate: 2.0e-3
    dropout: 0.0               # the teacher's soft answers hold the student back from overfitting
    losses:                    # kl, cross_entropy or logit_mse
$losses

score:                         # what the student says of its own answers
  correctness: true            # P(right), from all signals of the model; false: calibration alone
  out_of_domain: mahalanobis   # whether a text is like those that it was taught; or knn, or none

certificate:                   # P(answered by the student and wrong) <= alpha,
  alpha: 0.02                  # with confidence
  delta: 0.05                  # 1 - delta

gates:                         # how much the int8 model may differ from fp32, as shares of rows
  label_flips: 0.005
  confident_flips: 0.001       # of rows that the student would answer

prices:                        # null is unknown, which is never 0
  teacher_usd_per_1000: null   # what 1000 answers of the teacher cost
  instance_usd_per_hour: null  # what the machine of the student costs

seed: 0
""")

_SETTINGS = Template("""\
# How the gateway serves. Paths start at this file's folder.
version: 1

server:
  host: 127.0.0.1              # this machine only; 0.0.0.0 is the whole network
  port: 8080

tasks:
  $task:
    student:
      bundle: bundles/student  # answers first
    teacher:
      # Answers where the student is not sure enough.
      $teacher
    policy:
      # Never for the student, e.g. - {name: large_amount, field: amount, above: 1000}
      rules: []
    audit:
      share: 0.02              # confident answers that the teacher checks, after the reply
    prices:                    # null is unknown, which is never 0
      teacher_usd_per_1000: null
      instance_usd_per_hour: null

records:
  path: understudy.db          # SQLite
  text: hash                   # hash: the texts themselves are not kept
""")

"""Traces that a team has already: logged texts with what a model said of them -> Example lines.

Two forms, one JSON object a line: plain, where keys hold text and labels; and a chat, as OpenAI's
clients log it, where the last message of the user is the text and the reply says the labels. What a
line does not say is not guessed: such a line is counted and told. One line is made of equal texts;
where they have other labels, the commonest stands, and the shares of all become its scores, as
votes do (Wang et al. 2022, arXiv 2203.11171).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from distill.recipe import hint
from gateway.contract import examples
from gateway.contract.examples import Example, Field, Label, folded
from gateway.contract.manifest import HeadKind
from gateway.errors import DataError, TeacherGarbled, UsageError
from gateway.teachers.completion import Completion

_LABEL_LIMIT = 200  # characters, the manifest's own limit
_SHOWN = 5  # lines that a message names
_DIGITS = 4  # of a stored probability


class _Unusable(ValueError):
    """Why a line cannot be used."""


@dataclass(frozen=True, slots=True)
class HeadTrace:
    """Where a head's labels stand, and which it may have; an empty tuple: any.

    `key` is a path of keys with dots between. In a chat it leads into the reply's JSON; an empty
    one means the whole reply, as it is written.
    """

    name: str
    key: str
    kind: HeadKind = HeadKind.CHOICE
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """What the keys of a trace mean. `scores` is head -> key of an object label -> probability."""

    heads: Sequence[HeadTrace]
    text: str = "text"
    chat: bool = False
    scores: Mapping[str, str] = field(default_factory=dict)
    fields: Sequence[str] = ()
    group: str | None = None
    propensity: str | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file. `labels` is head -> label -> lines written; `unusable` line -> why."""

    lines: int
    written: int
    duplicates: int
    contradictions: int
    unusable: Mapping[int, str]
    labels: Mapping[str, Mapping[str, int]]


def heads(
    named: Sequence[str], listed: Sequence[str], *, label_key: str | None, chat: bool
) -> tuple[HeadTrace, ...]:
    """The heads that options name: `NAME=KEY`, `NAME:flags=KEY`, and `NAME=a,b` of their labels.

    Without any a chat has one, `label`, which the whole reply says. Raises UsageError.
    """
    found = [_head(each) for each in named]
    if label_key is not None:
        found.append(HeadTrace(label_key.rpartition(".")[2], label_key))
    if not found and chat:
        found.append(HeadTrace("label", ""))
    if not found:
        raise UsageError("no label is named", mend="add --label-key KEY, or --head NAME=KEY")
    names = [head.name for head in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the head {twice!r} is named twice", mend="name each head once")
    known = dict(pair(each, "--labels") for each in listed)
    if strange := next((name for name in known if name not in names), None):
        raise UsageError(
            f"--labels {strange}: there is no such head{hint(strange, names)}",
            mend="name it with --head NAME=KEY",
        )
    return tuple(
        replace(head, labels=tuple(label.strip() for label in known[head.name].split(",")))
        if head.name in known
        else head
        for head in found
    )


def pair(text: str, option: str) -> tuple[str, str]:
    """`NAME=VALUE` -> both. Raises UsageError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} {text}: no NAME=...", mend=f"write {option} NAME=...")
    return name, value


def _head(text: str) -> HeadTrace:
    name, key = pair(text, "--head")
    name, _, kind = name.partition(":")
    if kind and kind not in set(HeadKind):
        raise UsageError(
            f"--head {text}: no kind {kind!r}{hint(kind, HeadKind)}",
            mend="write NAME=KEY, NAME:choice=KEY or NAME:flags=KEY",
        )
    return HeadTrace(name, key, HeadKind(kind) if kind else HeadKind.CHOICE)


def convert(source: Path, target: Path, shape: Shape) -> Imported:
    """Read traces and write Example lines, all of them or none.

    Raises DataError when the file cannot be read or no line can be used, UsageError when the target
    cannot be written, or is the source.
    """
    _check_apart(source, target)
    gathered: dict[tuple[str, bytes], list[Example]] = defaultdict(list)
    unusable: dict[int, str] = {}
    count = 0
    for number, raw in _lines(source):
        count += 1
        try:
            example = _example(raw, shape)
        except _Unusable as error:
            unusable[number] = str(error)
            continue
        fields = orjson.dumps(dict(example.fields), option=orjson.OPT_SORT_KEYS)
        gathered[folded(example.text), fields].append(example)
    if not gathered:
        raise DataError(
            f"{source}: no line can be used" + (f": {told(unusable)}" if unusable else ""),
            mend="name the keys of text and labels as the lines have them",
        )
    found = [_joined(each) for each in gathered.values()]
    _write(target, found)
    return Imported(
        lines=count,
        written=len(found),
        duplicates=count - len(unusable) - len(found),
        contradictions=sum(_contradict(each) for each in gathered.values()),
        unusable=unusable,
        labels={head.name: _counts(head.name, found) for head in shape.heads},
    )


def told(unusable: Mapping[int, str]) -> str:
    """The first lines that cannot be used, and why."""
    first = [f"line {number}: {why}" for number, why in list(unusable.items())[:_SHOWN]]
    rest = len(unusable) - len(first)
    return "; ".join(first) + (f"; and {rest:,} more" if rest else "")


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with source.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, raw
    except OSError as error:
        raise DataError(
            f"{source}: cannot be read: {error.strerror}", mend="name a file of JSON lines"
        ) from error


def _check_apart(source: Path, target: Path) -> None:
    """Raises UsageError for two names of one file: the traces themselves would be lost."""
    if source.exists() and target.exists() and source.samefile(target):
        raise UsageError(
            f"{target}: the examples would take the place of the traces that they are made of",
            mend="name another file with --out",
        )


def _write(target: Path, found: Sequence[Example]) -> None:
    scratch = target.with_name(f".{target.name}.writing")
    try:
        examples.write(scratch, found)
        scratch.replace(target)
    except OSError as error:
        raise UsageError(
            f"{target}: cannot be written: {error.strerror}",
            mend="name a file in a folder that you may write to with --out",
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def _example(raw: bytes, shape: Shape) -> Example:
    try:
        row: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _Unusable(f"not JSON: {error.msg}") from error
    if not isinstance(row, dict):
        raise _Unusable("not a JSON object")
    said: Any = row
    text: Any
    fields: dict[str, Field]
    if shape.chat:
        text, fields = _asked(row)
        said = _replied(row)
    else:
        text, fields = _at(row, shape.text), {}
    if not isinstance(text, str) or not text.strip():
        raise _Unusable("there is no text" + ("" if shape.chat else f" at {shape.text!r}"))
    labels = {head.name: _label(head, _said(said, head, chat=shape.chat)) for head in shape.heads}
    group = _at(row, shape.group) if shape.group else None
    return Example(
        text=text,
        labels=labels,
        fields=fields | {name: _field(name, _at(row, name)) for name in shape.fields},
        group=None if group is None else str(group),
        source="teacher",
        propensity=_propensity(_at(row, shape.propensity)) if shape.propensity else 1.0,
        scores=_all_scores(row, shape),
    )


def _all_scores(row: Any, shape: Shape) -> dict[str, dict[str, float]]:
    """The scores of each head of which the line says any: none at all say nothing of its labels."""
    given = {
        head: _at(row, shape.scores[head.name]) for head in shape.heads if head.name in shape.scores
    }
    found = {head.name: _scores(head, said) for head, said in given.items() if said is not None}
    return {name: scores for name, scores in found.items() if scores}


def _at(row: Any, path: str) -> Any:
    """What stands at a path of keys; None where nothing does. A key that has dots is found too."""
    if isinstance(row, dict) and path in row:
        return row[path]
    for step in path.split("."):
        row = row.get(step) if isinstance(row, dict) else None
    return row


def _asked(row: Mapping[str, Any]) -> tuple[str, dict[str, Field]]:
    """The last message of the user; one that a teacher of ours was sent is text and fields."""
    messages = _messages(row)
    asked = [each.get("content") for each in messages if each.get("role") == "user"]
    if not asked:
        raise _Unusable("there is no message of a user")
    text = _content(asked[-1])
    try:
        inner = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text, {}
    if not isinstance(inner, dict) or not {"text"} <= inner.keys() <= {"text", "fields"}:
        return text, {}
    text, given = inner["text"], inner.get("fields") or {}
    if not isinstance(text, str) or not isinstance(given, dict):
        raise _Unusable("a message has no text and fields, but other things by these names")
    return text, {name: _field(name, value) for name, value in given.items()}


def _messages(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    request = row.get("request")
    inside = request.get("body", request) if isinstance(request, dict) else row
    found = inside.get("messages") if isinstance(inside, dict) else None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _Unusable("there are no messages")
    return found


def _replied(row: Mapping[str, Any]) -> str:
    """What the model wrote: in a response, in choices, or as the last message."""
    response = row.get("response")
    if isinstance(response, str):
        return response
    if isinstance(response, dict):
        response = response.get("body", response)
    elif "choices" in row:
        response = row
    if response is not None:
        try:
            return Completion.read(orjson.dumps(response)).content()
        except TeacherGarbled as error:
            raise _Unusable(error.message) from error
    last = _messages(row)[-1]
    if last.get("role") != "assistant":
        raise _Unusable("there is no reply of a model")
    return _content(last.get("content"))


def _content(content: Any) -> str:
    """The text of a message, whole or in parts."""
    if isinstance(content, list):
        parts = [each.get("text") for each in content if isinstance(each, dict)]
        content = "".join(each for each in parts if isinstance(each, str))
    if not isinstance(content, str) or not content:
        raise _Unusable("a message has no text")
    return content


def _said(said: Any, head: HeadTrace, *, chat: bool) -> Any:
    """What stands there for a head."""
    if chat and not head.key:
        return said
    if chat:
        try:
            said = orjson.loads(_unfenced(said))
        except orjson.JSONDecodeError as error:
            raise _Unusable("the reply is not JSON") from error
    return _at(said, head.key)


def _unfenced(reply: str) -> str:
    """A reply without its ```json fence, if it has one."""
    text = reply.strip()
    if text.startswith("```") and text.endswith("```"):
        return text.partition("\n")[2].removesuffix("```")
    return text


def _label(head: HeadTrace, said: Any) -> Label:
    if said is None:
        raise _Unusable(f"there is no label of the head {head.name!r}")
    if head.kind is HeadKind.CHOICE:
        if isinstance(said, bool):
            said = str(said).lower()
        if not isinstance(said, str | int) or not (label := str(said).strip()):
            raise _Unusable(f"the head {head.name!r} has no label, but {type(said).__name__}")
        return _known(head, label)
    if isinstance(said, str):
        said = said.split("|") if said.strip() else []
    if not isinstance(said, list) or not all(isinstance(each, str) and each for each in said):
        raise _Unusable(f"the head {head.name!r} has no list of labels")
    return tuple(sorted({_known(head, each.strip()) for each in said}))  # their order says nothing


def _known(head: HeadTrace, label: str) -> str:
    if len(label) > _LABEL_LIMIT:
        raise _Unusable(f"a label of the head {head.name!r} has {len(label)} characters")
    if head.labels and label not in head.labels:
        raise _Unusable(
            f"{label!r} is no label of the head {head.name!r}{hint(label, head.labels)}"
        )
    return label


def _scores(head: HeadTrace, given: Any) -> dict[str, float]:
    if not isinstance(given, dict):
        raise _Unusable(f"the scores of the head {head.name!r} are no object")
    for label, share in given.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise _Unusable(f"the score of {label!r} is no probability")
    return {
        _known(head, label): round(float(share), _DIGITS) for label, share in given.items() if share
    }


def _field(name: str, value: Any) -> Field:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise _Unusable(f"the field {name!r} is not one value")


def _propensity(value: Any) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not math.isfinite(value) or not 0.0 < value <= 1.0:
        raise _Unusable("the propensity is no probability above 0")
    return float(value)


def _joined(rows: Sequence[Example]) -> Example:
    """One line for equal texts: the commonest labels, of equally common ones the first."""
    if len(rows) == 1:
        return rows[0]
    votes = Counter(orjson.dumps(dict(row.labels)) for row in rows)
    ((most, _),) = votes.most_common(1)
    first = next(row for row in rows if orjson.dumps(dict(row.labels)) == most)
    if len(votes) == 1 or any(row.scores for row in rows):
        return first
    return Example(
        text=first.text,
        labels=first.labels,
        fields=first.fields,
        group=first.group,
        source=first.source,
        propensity=first.propensity,
        scores={head: _shares([row.labels[head] for row in rows]) for head in first.labels},
    )


def _shares(said: Sequence[Label]) -> dict[str, float]:
    """Label -> the share of the rows that have it."""
    counts = Counter(
        label for each in said for label in ((each,) if isinstance(each, str) else each)
    )
    return {label: round(count / len(said), _DIGITS) for label, count in counts.items()}


def _contradict(rows: Sequence[Example]) -> bool:
    return any(row.labels != rows[0].labels for row in rows)


def _counts(head: str, rows: Sequence[Example]) -> dict[str, int]:
    """Label -> lines that have it, the commonest first."""
    counts: Counter[str] = Counter()
    for row in rows:
        said = row.labels[head]
        counts.update((said,) if isinstance(said, str) else said)
    return dict(counts.most_common())

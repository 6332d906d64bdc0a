"""Traces: what a team has logged becomes Example lines, and what cannot be used is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.data import lines, traces
from distill.data.traces import HeadTrace, Imported, Shape
from gateway.contract import examples
from gateway.contract.examples import Example
from gateway.contract.manifest import HeadKind
from gateway.errors import DataError, UsageError
from tests.acceptance.command import understudy

ONE = (HeadTrace("intent", "output"),)


def convert(folder: Path, rows: list[Any], shape: Shape) -> tuple[Imported, list[Example]]:
    source, target = folder / "log.jsonl", folder / "examples.jsonl"
    source.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return traces.convert(source, target, shape), list(examples.read(target))


def test_keys_lead_to_text_labels_scores_and_all_else(tmp_path: Path) -> None:
    shape = Shape(
        heads=(
            HeadTrace("intent", "said.intent"),
            HeadTrace("risk", "said.risk", HeadKind.FLAGS),
        ),
        text="in.prompt",
        scores={"intent": "probs"},
        fields=("amount",),
        group="user",
        propensity="p",
    )
    row = {
        "in": {"prompt": "where is it?"},
        "said": {"intent": "order", "risk": "legal|fraud"},
        "probs": {"order": 0.87654, "refund": 0.1, "other": 0},
        "amount": 12.5,
        "user": 7,
        "p": 0.02,
    }
    found, (example,) = convert(tmp_path, [row], shape)
    assert example == Example(
        "where is it?",
        {"intent": "order", "risk": ("fraud", "legal")},
        {"amount": 12.5},
        "7",
        source="teacher",
        propensity=0.02,
        scores={"intent": {"order": 0.8765, "refund": 0.1}},
    )
    assert found == Imported(
        1, 1, 0, 0, {}, {"intent": {"order": 1}, "risk": {"legal": 1, "fraud": 1}}
    )
    assert lines.are_in(tmp_path / "examples.jsonl")


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [
                {"role": "system", "content": "Label it."},
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": '{"output": "greeting"}'},
            ]
        },
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
            "choices": [
                {"message": {"content": '```json\n{"output": "greeting"}\n```'}, "index": 0}
            ],
        },
        {
            "request": {"body": {"messages": [{"role": "user", "content": '{"text": "hello"}'}]}},
            "response": {
                "body": {
                    "choices": [
                        {"message": {"content": '{"output": "greeting"}'}, "finish_reason": "stop"}
                    ]
                }
            },
        },
        {"messages": [{"role": "user", "content": "hello"}], "response": '{"output": "greeting"}'},
    ],
)
def test_chats_are_read_in_the_shapes_that_clients_log(tmp_path: Path, row: Any) -> None:
    _, (example,) = convert(tmp_path, [row], Shape(heads=ONE, chat=True))
    assert (example.text, example.labels) == ("hello", {"intent": "greeting"})


def test_a_whole_reply_may_be_the_label_and_our_own_prompt_brings_its_fields(
    tmp_path: Path,
) -> None:
    asked = json.dumps({"text": "hello", "fields": {"amount": 3}})
    row = {"messages": [{"role": "user", "content": asked}], "response": " greeting\n"}
    shape = Shape(heads=traces.heads((), (), label_key=None, chat=True), chat=True)
    _, (example,) = convert(tmp_path, [row], shape)
    assert example.labels == {"label": "greeting"}
    assert example.fields == {"amount": 3}


def test_equal_texts_become_one_line_and_their_answers_votes(tmp_path: Path) -> None:
    said = ["refund", "order", "refund", "refund"]
    rows = [{"text": text, "output": each} for text, each in zip(
        ["Where?", "where? ", "WHERE?", "where?"], said, strict=True)]  # fmt: skip
    rows += [{"text": "thanks", "output": "other"}] * 2
    found, (where, thanks) = convert(tmp_path, rows, Shape(heads=ONE))
    assert (found.written, found.duplicates, found.contradictions) == (2, 4, 1)
    assert where.labels == {"intent": "refund"}
    assert where.scores == {"intent": {"refund": 0.75, "order": 0.25}}
    assert (thanks.labels, thanks.scores) == ({"intent": "other"}, {})


def test_lines_that_cannot_be_used_are_told_by_their_numbers(tmp_path: Path) -> None:
    heads = traces.heads(["intent=output"], ["intent=refund,order"], label_key=None, chat=False)
    rows: list[Any] = [
        "{",
        "[]",
        {"output": "refund"},
        {"text": "a"},
        {"text": "b", "output": ["refund"]},
        {"text": "c", "output": "refnud"},
        {"text": "d", "output": "x" * 201},
        {"text": "e", "output": "refund"},
    ]
    found, (example,) = convert(tmp_path, rows, Shape(heads=heads))
    assert example.text == "e"
    assert list(found.unusable) == [1, 2, 3, 4, 5, 6, 7]
    told = traces.told(found.unusable)
    assert "line 2: not a JSON object; line 3: there is no text at 'text'" in told
    assert "line 4: there is no label of the head 'intent'" in told
    assert told.endswith("; and 2 more")
    assert "did you mean 'refund'?" in found.unusable[6]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"response": "refund"}, "there are no messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "there is no message of a user"),
        ({"messages": [{"role": "user", "content": "x"}]}, "there is no reply of a model"),
        ({"messages": [{"role": "user"}], "response": "x"}, "a message has no text"),
        (
            {
                "messages": [{"role": "user", "content": "x"}],
                "choices": [{"message": {"content": '{"out'}, "finish_reason": "length"}],
            },
            "the reply was cut off (length)",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "response": "well"}, "is not JSON"),
    ],
)
def test_a_chat_that_says_no_label_is_not_guessed(tmp_path: Path, row: Any, told: str) -> None:
    with pytest.raises(DataError, match="no line can be used") as refused:
        convert(tmp_path, [row], Shape(heads=ONE, chat=True))
    assert told in refused.value.message
    assert list(tmp_path.glob("*examples*")) == []


@pytest.mark.parametrize(
    ("row", "shape", "told"),
    [
        ({"s": [1]}, Shape(ONE, scores={"intent": "s"}), "are no object"),
        ({"s": {"a": 1.5}}, Shape(ONE, scores={"intent": "s"}), "the score of 'a' is no proba"),
        ({"p": 0}, Shape(ONE, propensity="p"), "the propensity is no probability above 0"),
        ({"f": {}}, Shape(ONE, fields=("f",)), "the field 'f' is not one value"),
        ({"output": 1.5}, Shape(ONE), "has no label, but float"),
        ({"output": [""]}, Shape((HeadTrace("intent", "output", HeadKind.FLAGS),)), "no list of"),
    ],
)
def test_values_of_the_wrong_kind_are_told(
    tmp_path: Path, row: dict[str, Any], shape: Shape, told: str
) -> None:
    with pytest.raises(DataError) as refused:
        convert(tmp_path, [{"text": "x", "output": "y"} | row], shape)
    assert told in refused.value.message


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "no label is named"),
        (["--head", "intent"], "--head intent: no NAME="),
        (["--head", "risk:flag=r"], "no kind 'flag'; did you mean 'flags'?"),
        (["--label-key", "a", "--head", "a=b"], "the head 'a' is named twice"),
        (["--label-key", "a", "--labels", "b=x"], "--labels b: there is no such head"),
    ],
)
def test_options_that_name_no_labels_are_refused(
    tmp_path: Path, options: list[str], told: str
) -> None:
    said = understudy("traces", "import", tmp_path / "log.jsonl", *options)
    assert said.status == 2
    assert told in said.err


def test_what_was_there_stays_where_the_target_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        traces.convert(tmp_path / "none.jsonl", tmp_path / "out.jsonl", Shape(ONE))
    source = tmp_path / "log.jsonl"
    source.write_text('{"text": "a", "output": "b"}\n')
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        traces.convert(source, tmp_path / "out.jsonl", Shape(ONE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "out.jsonl"]


def test_the_command_tells_what_came_of_it(tmp_path: Path) -> None:
    source, target = tmp_path / "log.jsonl", tmp_path / "examples.jsonl"
    rows = [{"text": "a", "output": "x"}, {"text": "A", "output": "y"}, {"text": "b"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("traces", "import", source, "--out", target, "--label-key", "output")
    said = understudy(*asked)
    assert said.status == 0
    assert said.out.splitlines() == [
        "3 lines, 1 examples",
        "  1 of a text that is there already",
        "  1 texts had several answers: the commonest stands, and the shares are its scores",
        "  1 could not be used: line 3: there is no label of the head 'output'",
        "  output: x 1",
        "",
        f"wrote {target}",
        f"Next:  understudy init NAME --data {target}",
    ]
    shown = json.loads(understudy(*asked, "--json").out)
    assert shown["labels"] == {"output": {"x": 1}}
    assert shown["unusable"] == {"3": "there is no label of the head 'output'"}


def test_what_only_looks_like_a_request_of_ours_is_unusable(tmp_path: Path) -> None:
    def asked(content: object) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": json.dumps(content)}], "response": "a"}

    shape = Shape(heads=(HeadTrace("label", ""),), chat=True)
    good = asked({"text": "hi", "fields": {"n": 1}})
    odd = [asked({"text": "hi", "fields": [1]}), asked({"text": None})]
    found, (example,) = convert(tmp_path, [good, *odd], shape)
    assert (example.text, example.fields) == ("hi", {"n": 1})
    assert list(found.unusable) == [2, 3]


def test_flags_are_the_same_vote_in_any_order(tmp_path: Path) -> None:
    shape = Shape(heads=(HeadTrace("risk", "risk", HeadKind.FLAGS),))
    said = (["legal", "fraud"], ["fraud", "legal"], ["legal"])
    found, (example,) = convert(tmp_path, [{"text": "a", "risk": each} for each in said], shape)
    assert example.labels == {"risk": ("fraud", "legal")}
    assert example.scores == {"risk": {"fraud": 0.6667, "legal": 1.0}}
    assert found.contradictions == 1


def test_no_scores_at_all_leave_the_label_as_it_is(tmp_path: Path) -> None:
    heads = (HeadTrace("intent", "intent"), HeadTrace("risk", "risk", HeadKind.FLAGS))
    shape = Shape(heads=heads, scores={"intent": "p", "risk": "q"})
    row = {"text": "a", "intent": "x", "risk": ["legal"], "p": {"x": 0.9}, "q": {}}
    _, (example,) = convert(tmp_path, [row], shape)
    assert example.scores == {"intent": {"x": 0.9}}
    assert example.labels["risk"] == ("legal",)


def test_the_traces_themselves_are_never_overwritten(tmp_path: Path) -> None:
    log, link = tmp_path / "log.jsonl", tmp_path / "link.jsonl"
    log.write_text('{"text": "a", "output": "x"}\n')
    link.symlink_to(log)
    for target in (log, link):
        ran = understudy("traces", "import", log, "--out", target, "--label-key", "output")
        assert (ran.status, "would take the place of the traces" in ran.err) == (2, True)
    assert log.read_text() == '{"text": "a", "output": "x"}\n'

"""The first student: from what a teacher has said, with no bundle of it, to a gateway that serves.

The teacher is the ticket world's own gold, said by traces or by a chat model; the student's base is
the shop's tiny network of random weights, so that the whole way takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from distill import beliefs, interview, pipeline, recipe
from distill.corpus import Material, collect
from distill.data import sources
from distill.data.provenance import DataProvenance
from distill.data.split import Splits
from distill.demo import tickets
from distill.progress import Narrator
from distill.stages import measurement
from distill.stages.job import Job
from distill.workspace import Workspace
from gateway.contract import examples
from gateway.contract.bundle import Bundle, open_bundle
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import RecipeError, StageFailed
from tests.acceptance import shop as shops
from tests.acceptance.command import Ran, understudy
from tests.distill.test_recipe import SMALLEST
from tests.gateway.teachers.chat_server import Body, ChatServer, Reply, completion

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]

QUIET = Narrator(quiet=True)
URGENCIES = {ticket.text: ticket.urgency for ticket in tickets.generate(240, seed=3)}
GARBAGE = next(iter(URGENCIES))
USD = Decimal("0.00022")  # of a call: 100 tokens at 2 USD, 10 at 2 USD a million
TRAINING = {
    "epochs": 2,
    "batch": 16,
    "learning_rate": 1.0e-3,
    "head_learning_rate": 1.0e-2,
    "losses": [{"name": "kl", "temperature": 1.0}],
}
CHANGES: dict[str, dict[str, Any]] = {
    "teacher": {"base": "base"},
    "student": {"layers": [0], "augment": 1, "training": TRAINING},
    "certificate": {"alpha": 0.6},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shops.pretrain(tmp_path_factory.mktemp("weights") / "base")


@dataclass(frozen=True)
class FromTraces:
    """A project that was made of traces, and what its commands printed."""

    folder: Path
    imported: Ran
    init: Ran
    distilled: Ran

    @property
    def student(self) -> Bundle:
        """What came of it."""
        return open_bundle(self.folder / "bundles" / "student")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, base: Path) -> FromTraces:
    folder = tmp_path_factory.mktemp("traces")
    logged = folder / "log.jsonl"
    logged.write_bytes(
        b"".join(
            orjson.dumps({"prompt": text, "output": urgency}) + b"\n"
            for text, urgency in URGENCIES.items()
        )
    )
    lines = folder / "examples.jsonl"
    imported = understudy(
        "traces", "import", logged, "--out", lines, "--text-key", "prompt", "--label-key", "output"
    )
    init = understudy(
        "init", "urgency", "--data", lines, "--out", folder,
        "--teacher-url", "http://127.0.0.1:9/v1", "--teacher-model", "large",
    )  # fmt: skip
    (folder / "base").symlink_to(base)
    path = folder / recipe.FILE_NAME
    content = yaml.safe_load(path.read_text())
    del content["teacher"]["ask"], content["teacher"]["max_usd"]  # its answers are known already
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    shops.edit(path, CHANGES)
    with shops.one_thread():
        return FromTraces(folder, imported, init, understudy("distill", "--recipe", path))


def test_a_student_comes_of_traces_alone_and_can_be_served(project: FromTraces) -> None:
    assert (project.imported.status, project.init.status) == (0, 0)
    assert project.distilled.status == 0, project.distilled.err
    manifest = project.student.manifest
    assert [(head.name, set(head.labels)) for head in manifest.task.heads] == [
        ("output", set(URGENCIES.values()))
    ]
    assert manifest.provenance.teacher is None
    assert manifest.provenance.rows["train"] == 240 - sum(
        manifest.provenance.rows[name] for name in ("calibration", "certification", "test")
    )
    checked = understudy("check", "--config", project.folder / "understudy.yaml")
    assert checked.status == 0, checked.err
    assert project.student.name in checked.out


def test_what_was_measured_is_called_agreement_with_the_teacher(project: FromTraces) -> None:
    reports = project.student.manifest.reports
    assert reports.evaluation
    assert reports.evaluation.labels == "teacher"
    assert reports.evaluation.teacher_accuracy == 1.0  # it is the yardstick
    assert reports.latency
    assert reports.latency.teacher_p50_ms is None
    (point,) = project.student.manifest.operating_points
    assert point.certificate is None or point.certificate.labels == "teacher"
    agreement = f"{reports.evaluation.accuracy:.2%}"
    assert f"output: agreement with the teacher {agreement}" in project.distilled.out
    assert "accuracy" not in project.distilled.out
    card = (project.student.path / "CARD.md").read_text()
    assert f"Agrees with the teacher on all heads: {agreement}" in card
    assert "accuracy" not in card


@dataclass
class Chat:
    """A chat model that knows the urgency of every ticket but one, which it talks about at length.

    `down`: it knows the key no more; `limited`: it takes nothing for now.
    """

    server: ChatServer
    down: bool = False
    limited: bool = False

    @property
    def asked(self) -> list[str]:
        """The texts that it was asked for."""
        return [json.loads(body["messages"][-1]["content"])["text"] for body in self.server.bodies]


@pytest.fixture
def chat() -> Iterator[Chat]:
    def reply(body: Body) -> Reply:
        if found.limited:
            return 429, {"error": {"message": "too many"}}
        if found.down:
            return 401, {"error": {"message": "no such key"}}
        text = json.loads(body["messages"][-1]["content"])["text"]
        if text == GARBAGE:
            return completion("That depends on many things.")
        return completion({"urgency": URGENCIES[text]})

    found = Chat(ChatServer(reply))
    with found.server.running():
        yield found


def asking(folder: Path, base: Path, chat: Chat, **more: object) -> Path:
    """A project whose texts have no labels, and whose teacher is the chat model."""
    texts = folder / "texts.jsonl"
    texts.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in URGENCIES))
    said = understudy(
        "init", "urgency", "--data", texts, "--out", folder,
        "--teacher-url", chat.server.url, "--teacher-model", "large",
        "--labels", f"urgency={','.join(sorted(set(URGENCIES.values())))}",
    )  # fmt: skip
    assert said.status == 0, said.err
    (folder / "base").symlink_to(base)
    path = folder / recipe.FILE_NAME
    shops.edit(path, CHANGES)
    content = yaml.safe_load(path.read_text())
    content["teacher"] |= more
    content["teacher"]["ask"] |= {"concurrency": 4, "timeout_s": 120}  # none is asked twice
    content["teacher"]["ask"]["openai"] |= {"input_usd_per_million": 2, "output_usd_per_million": 2}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_chat_model_labels_once_within_its_budget_and_a_student_comes_of_it(
    tmp_path: Path, base: Path, chat: Chat
) -> None:
    path = asking(tmp_path, base, chat, max_usd=0.01122)
    stopped = understudy("distill", "--recipe", path)
    assert stopped.status == 1
    # The dearest text costs two calls of 220 micro-USD, and up to four run at once: the fifth is
    # not begun where it could pass the limit, and those that run come to their end.
    first = len(chat.asked)
    assert 11_220 - 5 * 440 < first * 220 <= 11_220
    told = f"teacher.max_usd is $0.0112, and what was asked so far cost ${first * USD:.4f}"
    assert told in stopped.err

    shops.edit(path, {"teacher": {"max_usd": 1}})
    chat.down = True
    lost = understudy("distill", "--recipe", path)
    assert lost.status == 1
    assert "answers are kept" in lost.err
    chat.down = False
    refused = len(chat.asked) - first

    with shops.one_thread():
        done = understudy("distill", "--recipe", path)
    assert done.status == 0, done.err
    assert len(chat.asked) == 240 + 1 + refused
    assert "240 texts answered; 1 of them unusable, and left out" in done.err
    assert f"so far cost ${241 * USD:.4f}" in done.err
    manifest = open_bundle(tmp_path / "bundles" / "student").manifest
    assert sum(manifest.provenance.rows.values()) == 239
    assert (manifest.provenance.teacher or "").startswith("large@")
    assert manifest.task.heads[0].name == "urgency"
    asked = len(chat.asked)
    again = pipeline.distill(recipe.load(path), Workspace(tmp_path), QUIET)
    assert again.bundle.id == manifest_id(tmp_path)
    assert len(chat.asked) == asked


def manifest_id(folder: Path) -> str:
    return open_bundle(folder / "bundles" / "student").id


def test_a_test_text_without_a_usable_answer_leaves_the_teacher_measured(tmp_path: Path) -> None:
    """Of a teacher that was asked for all; else nothing is said of it."""
    head = Head(name="urgency", kind=HeadKind.CHOICE, labels=("high", "low"))
    task = Task(name="tickets", heads=(head,))
    said = examples.Example("a", {"urgency": "low"}, scores={"urgency": {"low": 1.0}})
    silent = examples.Example("b", {"urgency": "low"})
    logits = beliefs.of(task, [said, silent]).logits
    splits = Splits((), (), (), (said, silent), ())
    told = DataProvenance({}, {}, {}, 0, 0, 0, ())
    material = Material("data", task, "gold", splits, told, {}, asked="large")
    orders = recipe.parse(yaml.safe_load(SMALLEST), path=tmp_path / recipe.FILE_NAME)
    job = Job(orders, Workspace(tmp_path), QUIET, material, None, {})
    found = measurement._teachers_opinion(job, None, logits)
    assert found is not None
    assert found.answered is not None
    assert found.answered.tolist() == [True, False]
    handed = replace(job, recipe=orders.handed(tmp_path / "handover.jsonl"))
    assert measurement._teachers_opinion(handed, None, logits) is None  # nobody asked it for those
    job = replace(job, material=replace(material, asked=None))
    assert measurement._teachers_opinion(job, None, logits) is None


def test_a_limit_on_calls_whose_price_nobody_knows_is_refused(
    tmp_path: Path, base: Path, chat: Chat
) -> None:
    path = asking(tmp_path, base, chat, max_usd=1)
    content = yaml.safe_load(path.read_text())
    del content["teacher"]["ask"]["openai"]["input_usd_per_million"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=r"teacher\.max_usd cannot be kept") as refused:
        pipeline.distill(recipe.load(path), Workspace(tmp_path), QUIET)
    assert "prices.teacher_usd_per_1000" in refused.value.mend
    assert len(chat.asked) <= 3  # texts go alone, and the one that it talks about is asked twice


def test_a_teacher_that_only_talks_is_given_up_after_twenty_texts(
    tmp_path: Path, base: Path, chat: Chat
) -> None:
    path = asking(tmp_path, base, chat)
    content = yaml.safe_load(path.read_text())
    content["data"]["heads"]["urgency"]["labels"] = ["now", "never"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(StageFailed, match="none of the first 20 answers can be used"):
        pipeline.distill(recipe.load(path), Workspace(tmp_path), QUIET)
    assert len(set(chat.asked)) <= 20 + 4


def test_a_teacher_that_takes_nothing_is_asked_ever_more_seldom_and_then_given_up(
    tmp_path: Path, base: Path, chat: Chat
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    path = asking(tmp_path, base, chat)
    content = yaml.safe_load(path.read_text())
    content["teacher"]["ask"] |= {"concurrency": 1, "retries": 0}
    path.write_text(yaml.safe_dump(content))
    orders = recipe.load(path)
    chat.limited = True
    with pytest.raises(StageFailed, match="the teacher takes no more") as given_up:
        interview.hold(orders, sources.read(orders), Workspace(tmp_path), QUIET, sleep=sleep)
    assert "answers are kept" in given_up.value.mend
    assert pauses == [1, 2, 4, 8, 16, *[30] * 19]  # 601 seconds, in which nothing is answered
    assert len(chat.asked) == 25


def test_a_line_that_a_kill_cut_short_is_asked_again(tmp_path: Path) -> None:
    whole = interview.Answer({"urgency": "low", "risk": ("a",)}, {"urgency": {"low": 0.9}}, 220)
    dark = interview.Answer(None, {}, 0, unknown=1)
    with interview.Book(tmp_path) as book:
        book.keep("one", whole)
        book.keep("two", dark)
        book.charge(30, 2)
    path = tmp_path / interview.ANSWERS
    path.write_bytes(path.read_bytes() + b'{"key": "three", "lab')
    with interview.Book(tmp_path) as book:
        assert book.answers == {"one": whole, "two": dark}
        assert (book.cost, book.unknown, book.dearest) == (250, 3, 220)
        assert book.bill == "cost $0.0003, and 3 calls of unknown cost"
        book.keep("three", whole)
    with interview.Book(tmp_path) as book:
        assert list(book.answers) == ["one", "two", "three"]


def test_a_handover_of_escalations_alone_is_refused_unless_asked_for(
    tmp_path: Path, base: Path
) -> None:
    rows = [
        examples.Example(text, {"urgency": urgency}, source="teacher", chosen=True)
        for text, urgency in URGENCIES.items()
    ]
    lines = tmp_path / "handover.jsonl"
    examples.write(lines, rows)
    (tmp_path / "understudy.yaml").write_text("# of the gateway that recorded them\n")
    said = understudy("init", "urgency", "--data", lines, "--out", tmp_path)
    assert said.out.startswith(f"wrote {tmp_path / 'recipe.yaml'}\n\nNext: read it, then\n")
    (tmp_path / "base").symlink_to(base)
    path = tmp_path / recipe.FILE_NAME
    shops.edit(path, CHANGES)
    refused = understudy("distill", "--recipe", path)
    assert refused.status == 2
    assert "240 of the 240 labelled rows were escalated by a student, and none was" in refused.err
    shops.edit(path, {"data": {"allow_biased": True}})
    material = collect(recipe.load(path), Workspace(tmp_path), QUIET, teacher=None)
    assert "figures and certificate hold for such rows only" in material.provenance.warnings[0]

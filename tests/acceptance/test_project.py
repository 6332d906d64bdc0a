"""A project from its data to served answers, by the commands that a user runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import yaml

from distill.demo import tickets
from distill.demo.crowd import gold
from gateway.contract.bundle import open_bundle
from tests.acceptance import shop as shops
from tests.acceptance.command import Ran, understudy
from tests.acceptance.process import TIMEOUT_S, Process
from tests.acceptance.shop import Shop
from tests.patience import until

# Of one group: each process of the tests would train the project again.
# The first of them waits for all training: half a minute, and six where others have the processors.
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.slow,
    pytest.mark.xdist_group("project"),
    pytest.mark.timeout(900),
]

EPOCHS = 10  # of the training that is killed after its first
STANDING_STILL = """\
import os
import signal
import sys

from distill import train

keep = train._keep


def keep_and_stop(*what):
    keep(*what)
    os.kill(os.getpid(), signal.SIGSTOP)


train._keep = keep_and_stop

from gateway.cli import main

main(sys.argv[1:])
"""  # the command, which stands still once it has written a checkpoint


@dataclass(frozen=True, slots=True)
class Interruption:
    """What happened around a `distill` that was killed in the midst of its training."""

    folder: Path
    pid: int
    other: Ran  # a second one, while the first was at work
    left: list[str]  # the bundles after the kill
    again: Ran


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return shops.trained(tmp_path_factory)


@pytest.fixture(scope="module")
def gateway(shop: Shop) -> Iterator[Process]:
    content = yaml.safe_load((shop.folder / "understudy.yaml").read_text())
    content["tasks"]["tickets"]["teacher"]["timeout_s"] = TIMEOUT_S  # on however busy a machine
    config = shop.folder / "patient.yaml"
    config.write_text(yaml.safe_dump(content))
    with closing(Process(config)) as process:
        yield process


@pytest.fixture(scope="module")
def interruption(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Interruption:
    """A project of JSON lines without gold labels, whose teacher is the shop's."""
    folder = unlabelled_project(shop, tmp_path_factory.mktemp("unlabelled"))
    command = ["distill", "--recipe", str(folder / "recipe.yaml")]
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(
            [sys.executable, "-c", STANDING_STILL, *command],
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    try:
        seen = os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert seen is not None
        assert seen.si_code == os.CLD_STOPPED, (folder / "first.log").read_text()
        other = understudy(*command)
    finally:
        first.kill()
        first.wait(TIMEOUT_S)
    left = [path.name for path in (folder / "bundles").glob("*")]
    with shops.one_thread():
        again = understudy(*command)
    return Interruption(folder, first.pid, other, left, again)


def unlabelled_project(shop: Shop, folder: Path) -> Path:
    """A recipe that names a teacher, all labels, and texts that nobody has labelled."""
    with (folder / "texts.jsonl").open("wb") as file:
        for ticket in tickets.generate(300, seed=1):
            file.write(orjson.dumps({"text": ticket.text}) + b"\n")
    task = open_bundle(shop.folder / "bundles" / "teacher").manifest.task
    content = yaml.safe_load(shop.recipe.read_text())
    content["data"] = {
        "path": "texts.jsonl",
        "heads": {
            head.name: {"kind": head.kind.value, "column": head.name, "labels": list(head.labels)}
            for head in task.heads
        },
        "split": content["data"]["split"],
    }
    content["student"]["training"]["epochs"] = EPOCHS
    content["teacher"]["bundle"] = str(shop.folder / "bundles" / "teacher")
    content["teacher"]["base"] = str(shop.folder / "base")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def test_every_command_names_the_next(shop: Shop) -> None:
    config = shop.folder / "understudy.yaml"
    for said, following in (
        (shop.init, f"understudy teach --recipe {shop.recipe}"),
        (shop.init, f"understudy distill --recipe {shop.recipe}"),
        (shop.teach, f"understudy distill --recipe {shop.recipe}"),
        (shop.distill, f"understudy check --config {config}"),
        (shop.distill, f"understudy serve --config {config}"),
        (understudy("check", "--config", config), f"understudy serve --config {config}"),
    ):
        assert said.status == 0
        assert following in said.out


def test_distill_says_what_it_made(shop: Shop) -> None:
    bundle = open_bundle(shop.folder / "bundles" / "student")
    assert f"student: {bundle.path.resolve()}" in shop.distill.out
    assert "with 95% confidence against gold labels" in shop.distill.out
    evaluation = bundle.manifest.reports.evaluation
    assert evaluation
    assert f"all heads: student {evaluation.accuracy:.2%}" in shop.distill.out
    report = shop.distill.out.partition("report:")[2].split()[0]
    assert bundle.name in Path(report).read_text()


def test_the_certificate_rests_on_rows_of_its_own(shop: Shop) -> None:
    (point,) = open_bundle(shop.folder / "bundles" / "student").manifest.operating_points
    assert point.certificate
    assert point.certificate.labels == "gold"
    assert point.certificate.rows == shops.CERTIFIED_ROWS
    assert point.certificate.upper_bound <= 0.4


def test_a_second_distill_keeps_every_stage_and_gives_the_same_bundle(shop: Shop) -> None:
    again = understudy("distill", "--recipe", shop.recipe)
    assert again.out == shop.distill.out
    for stage in ("collect", "label", "train", "export", "certify", "evaluate", "seal"):
        assert f"{stage}: kept from an earlier start" in again.err


def test_the_trained_project_is_served(shop: Shop, gateway: Process) -> None:
    asked = tickets.generate(60, seed=2)
    found = gateway.post({"inputs": [ticket.text for ticket in asked]}).json()["results"]
    routes = [each["route"] for each in found]
    assert {*routes} == {"student", "teacher"}
    bundles = {
        role: open_bundle(shop.folder / "bundles" / role).id for role in ("student", "teacher")
    }
    assert [each["bundle"] for each in found] == [bundles[route] for route in routes]
    assert all(each["labels"].keys() == gold(asked[0]).keys() for each in found)
    stats = gateway.stats()["tasks"]["tickets"]
    assert stats["requests"] == 60
    assert stats["routes"]["student"] == routes.count("student")
    assert stats["serving"]["certificate"]["alpha"] == 0.4
    labels = '{code="200",route="teacher",task="tickets"}'
    assert gateway.metric(f"understudy_requests_total{labels}") == routes.count("teacher")


def test_served_answers_are_found_among_the_records(shop: Shop, gateway: Process) -> None:
    identity = gateway.ask("I want my money back")["id"]
    until(lambda: not gateway.stats()["records"]["waiting"])
    found = understudy("records", "query", "--config", shop.folder / "understudy.yaml", "--json")
    assert identity in [record["id"] for record in json.loads(found.out)]


def test_two_processes_never_write_one_run(interruption: Interruption) -> None:
    assert interruption.other.status == 2
    assert f"process {interruption.pid} is writing this run" in interruption.other.err


def test_a_killed_distill_leaves_no_bundle(interruption: Interruption) -> None:
    assert interruption.left == []


def test_a_killed_distill_goes_on_where_it_ended(interruption: Interruption) -> None:
    assert interruption.again.status == 0
    for stage in ("collect", "label"):
        assert f"{stage}: kept from an earlier start" in interruption.again.err
    assert "train: kept" not in interruption.again.err
    (history,) = interruption.folder.glob("runs/training-*/train/history.json")
    assert len(json.loads(history.read_text())) == EPOCHS
    (sealed,) = interruption.folder.glob("bundles/tickets-*")
    assert f"student: {sealed}" in interruption.again.out


def test_without_gold_labels_the_certificate_says_that_the_teacher_judged(
    interruption: Interruption,
) -> None:
    manifest = open_bundle(interruption.folder / "bundles" / "student").manifest
    assert manifest.reports.evaluation
    assert manifest.reports.evaluation.labels == "teacher"
    assert manifest.reports.evaluation.teacher_accuracy == 1.0
    (point,) = manifest.operating_points
    assert point.certificate
    assert point.certificate.labels == "teacher"
    assert "against teacher labels" in interruption.again.out

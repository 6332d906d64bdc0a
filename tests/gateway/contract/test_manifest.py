"""The manifest's models: what they refuse, and what they derive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.contract.bundle import open_bundle
from gateway.contract.manifest import (
    FileEntry,
    Head,
    HeadKind,
    InputLimits,
    Manifest,
    Task,
)
from tests.factories import TASK, tiny_bundle
from tests.familiar import familiar_bundle

INTENT = Head(name="intent", kind=HeadKind.CHOICE, labels=("refund", "login", "other"))
RISK = Head(name="risk", kind=HeadKind.FLAGS, labels=("legal",))


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """The content of a manifest that is accepted, to be spoilt."""
    return open_bundle(tiny_bundle(tmp_path)).manifest.model_dump(mode="json")


def test_logits_of_the_heads_stand_side_by_side() -> None:
    task = Task(name="tickets", heads=(INTENT, RISK))
    assert task.outputs == 4
    assert task.slices() == (slice(0, 3), slice(3, 4))


def test_one_flag_is_enough_and_one_choice_is_not() -> None:
    assert RISK.labels == ("legal",)
    with pytest.raises(ValidationError, match="'intent' is a choice and needs two labels"):
        Head(name="intent", kind=HeadKind.CHOICE, labels=("refund",))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a", "b", "a"), "names a label twice"),
        ((), "at least 1 item"),
        (("a", ""), "at least 1 character"),
        (("a", "b" * 201), "at most 200 characters"),
    ],
)
def test_labels_are_some_distinct_short_texts(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Head(name="risk", kind=HeadKind.FLAGS, labels=labels)


def test_two_heads_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two heads have the same name"):
        Task(name="tickets", heads=(INTENT, INTENT))


def test_a_task_without_heads_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Task(name="tickets", heads=())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "a\n", "-a", "a" * 121])
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Task(name=name, heads=(RISK,))
    with pytest.raises(ValidationError):
        FileEntry(name=name, sha256="0" * 64, size=1)


@pytest.mark.parametrize("digest", ["0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_hash_is_64_small_hexadecimal_digits(digest: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry(name="a", sha256=digest, size=1)


def test_a_part_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(RISK, "name", "other")  # noqa: B010  a frozen attribute


@pytest.mark.parametrize(("tokens", "characters"), [(7, 1), (8193, 1), (8, 0), (8, 1_000_001)])
def test_limits_out_of_reason_are_refused(tokens: int, characters: int) -> None:
    with pytest.raises(ValidationError):
        InputLimits(max_tokens=tokens, max_characters=characters)


def test_a_whole_manifest_survives_its_own_json(content: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(content)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.task == TASK


@pytest.mark.parametrize("path", ["", "graph", "golden", "provenance", "reports.latency"])
def test_an_unknown_key_is_refused_at_every_depth(content: dict[str, Any], path: str) -> None:
    part = content
    for step in path.split(".") if path else []:
        part = part[step]
    part["surprise"] = 1
    with pytest.raises(ValidationError, match="Extra inputs"):
        Manifest.model_validate(content)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(content: dict[str, Any], number: float) -> None:
    content["operating_points"][0]["threshold"] = number
    with pytest.raises(ValidationError, match="finite"):
        Manifest.model_validate(content)


def test_calibration_names_the_heads_in_their_order(content: dict[str, Any]) -> None:
    content["calibration"].reverse()
    with pytest.raises(ValidationError, match="calibration does not name the heads"):
        Manifest.model_validate(content)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_is_above_zero(content: dict[str, Any], temperature: float) -> None:
    content["calibration"][0]["temperature"] = temperature
    with pytest.raises(ValidationError, match="greater than 0"):
        Manifest.model_validate(content)


def test_a_golden_vector_has_as_many_logits_as_the_task(content: dict[str, Any]) -> None:
    content["golden"]["vectors"][0]["logits"].pop()
    with pytest.raises(ValidationError, match="another number of logits"):
        Manifest.model_validate(content)


def test_with_a_domain_every_golden_vector_has_a_distance(tmp_path: Path) -> None:
    tiny = tiny_bundle(tmp_path)
    content = open_bundle(familiar_bundle(tiny)).manifest.model_dump(mode="json")
    assert Manifest.model_validate(content).domain
    tolerance = content["golden"].pop("distance_tolerance")
    with pytest.raises(ValidationError, match="distance_tolerance is not set"):
        Manifest.model_validate(content)
    content["golden"]["distance_tolerance"] = tolerance
    del content["golden"]["vectors"][1]["distance"]
    with pytest.raises(ValidationError, match="a golden vector has no distance"):
        Manifest.model_validate(content)


def test_a_file_is_listed_once(content: dict[str, Any]) -> None:
    content["files"].append(content["files"][0])
    with pytest.raises(ValidationError, match="a file is listed twice"):
        Manifest.model_validate(content)


def test_an_operating_point_is_found_by_its_name(content: dict[str, Any]) -> None:
    manifest = Manifest.model_validate(content)
    assert manifest.operating_point("default") == manifest.operating_points[0]
    assert manifest.operating_point("strict") is None

"""Traffic beside the own data: what measures, what teaches, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from distill.data import traffic
from distill.data.split import Splits
from distill.recipe import HandoverPlan, Recipe, parse
from gateway.contract.examples import Example
from gateway.errors import DataError, RecipeError

WORDS = ["red", "green", "blue", "gold", "pink", "teal", "grey", "plum", "rust", "sand"]
HELD = ("calibration", "certification", "test")


def recipe(**data: Any) -> Recipe:
    content = {
        "version": 1,
        "task": "tickets",
        "data": {
            "path": "own.csv",
            "heads": {"intent": {"kind": "choice", "column": "intent"}},
            "handover": "handed.jsonl",
            **data,
        },
    }
    return parse(content, path=Path("recipe.yaml"))


def words(number: int) -> str:
    """A text without a number, another for each number below 10,000."""
    return " ".join(WORDS[int(digit)] for digit in f"{number:04d}")


def rows(count: int, kind: str, propensity: float | None) -> list[Example]:
    """Texts that begin with their kind, and have it as their label too."""
    return [
        Example(f"{kind} {words(n)}", {"intent": kind}, source="teacher", propensity=propensity)
        for n in range(count)
    ]


def own(count: int) -> list[Example]:
    return [Example(f"own {words(n)}", {"intent": "ab"[n % 2]}) for n in range(count)]


def kinds(part: tuple[Example, ...]) -> dict[str, int]:
    found = [row.text.split()[0] for row in part]
    return {kind: found.count(kind) for kind in sorted(set(found))}


def test_what_measures_is_traffic_as_it_is_and_all_else_teaches() -> None:
    """4,000 escalated and 400 of 4,000 others audited at 0.1: traffic is half of each.

    The even sample has all 400, and about 400 of the escalated ones, of which 40 % certify.
    """
    handed = [
        *rows(4000, "sent", 1.0), *rows(400, "audited", 0.1), *rows(300, "picked", None),
    ]  # fmt: skip
    parts, told = traffic.parted(recipe(), own(200), handed, [])
    part = kinds(parts.certification)
    # Binomials of 4,000 at 0.04 and 400 at 0.4: four standard deviations are 50 and 39.
    assert abs(part["sent"] - 160) < 50
    assert abs(part["audited"] - 160) < 39
    held = [row for name in HELD for row in parts.parts()[name]]
    assert set(kinds(tuple(held))) == {"sent", "audited"}
    taught = kinds(parts.train)
    assert (taught["own"], taught["picked"]) == (200, 300)
    assert taught["audited"] == 400 - kinds(tuple(held))["audited"]
    assert len(held) + len(parts.train) + parts.removed == 4900
    assert "the same chance, 0.1, to be seen" in told[0]
    again, _ = traffic.parted(recipe(), own(200), handed[::-1], [])
    assert again == parts


def test_what_the_own_data_knows_teaches_and_never_measures() -> None:
    known = replace(rows(1, "sent", 1.0)[0], text="own red red red red")
    numbered = replace(known, text="own red red red red 7")
    mine = [*own(1), Example("own red red red red 9", {"intent": "a"})]
    handed = [*(known for _ in range(1)), numbered, *rows(400, "sent", 1.0)]
    parts, _ = traffic.parted(recipe(), mine, handed, [])
    texts = {row.text: row.source for row in parts.train}
    assert texts[known.text] == "gold"  # ours, once
    assert texts[numbered.text] == "teacher"  # of a number that was seen: taught, not measured
    assert parts.removed == 1


def test_a_test_file_of_its_own_stays_what_is_tested() -> None:
    apart = [Example(f"sent {words(n)}", {"intent": "sent"}) for n in range(3)]
    parts, _ = traffic.parted(recipe(), own(10), rows(300, "sent", 1.0), apart)
    assert {row.text for row in parts.test} == {row.text for row in apart}
    assert all(row.source == "gold" for row in parts.test)
    assert parts.removed == 3  # the same texts, handed over


def test_own_rows_measure_where_that_is_asked_for() -> None:
    plan = recipe(handover={"path": "handed.jsonl", "measure": "own"})
    handed = [*rows(50, "sent", 1.0), replace(rows(1, "sent", 0.1)[0], text=own(1)[0].text)]
    parts, told = traffic.parted(plan, own(100), handed, [])
    assert {kind for name in HELD for kind in kinds(parts.parts()[name])} == {"own"}
    assert kinds(parts.train)["sent"] == 50
    assert sum(kinds(parts.parts()[name])["own"] for name in ("train", *HELD)) == 100
    assert "not for traffic that has drifted away" in told[0]
    traffic.check_enough(plan, parts)
    rare = [replace(row, propensity=0.5) for row in own(5)]  # a test file is no part of that draw
    apart = [Example(f"test {words(n)}", {"intent": "ab"[n % 2]}) for n in range(40)]
    parts, _ = traffic.parted(plan, [*own(200)[5:], *rare], handed, apart)
    assert len(parts.test) == 40
    assert parts.removed > 0


@pytest.mark.parametrize(("have", "enough"), [(148, False), (149, True)])
def test_too_few_rows_to_promise_anything_are_refused(have: int, *, enough: bool) -> None:
    """0.98^149 = 0.0493 is the first power below 0.05: so many right answers prove 2 %."""
    parts = Splits((), (), tuple(rows(have, "sent", 1.0)), (), ())
    if enough:
        traffic.check_enough(recipe(), parts)
        return
    with pytest.raises(DataError, match=r"leaves 148 rows .* needs 149 without") as refused:
        traffic.check_enough(recipe(), parts)
    assert "audit.share" in refused.value.mend


def test_nothing_left_to_measure_is_refused() -> None:
    with pytest.raises(DataError, match="is left for calibration"):
        traffic.parted(recipe(), own(10), rows(20, "picked", None), [])


def test_without_a_handover_there_is_no_traffic() -> None:
    with pytest.raises(RecipeError, match=r"no data\.handover"):
        traffic.parted(recipe().alone(), own(10), rows(20, "sent", 1.0), [])


def test_a_recipe_names_its_handover_and_is_the_same_without_one() -> None:
    named = recipe()
    assert named.data.handover == HandoverPlan(path=Path("handed.jsonl"))
    assert named.alone().hash == recipe(handover=None).hash != named.hash
    measure: Literal["own"] = "own"
    kept = recipe(handover={"path": "a.jsonl", "measure": measure})
    other = kept.handed(Path("/b.jsonl"), allow_biased=True)
    assert other.data.handover == HandoverPlan(path=Path("/b.jsonl"), measure=measure)
    assert (other.data.allow_biased, kept.handed(None)) == (True, kept)

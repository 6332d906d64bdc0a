"""The ticket world: distinct, seeded, labelled by what the text says, unsure where it should be."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice, repeat
from pathlib import Path
from random import Random
from statistics import median

import pytest

from distill.demo import tickets
from distill.demo.ambiguities import AMBIGUITIES
from distill.demo.dice import Dice
from distill.demo.grammar import MARKS, RISKS, Phrase, phrases, sentence, wording
from distill.demo.handwriting import handwritten, with_slips
from distill.demo.intents import DANGEROUS, INTENTS
from distill.demo.manners import (
    HURRY,
    HURRY_MONEY,
    HURRY_THINGS,
    PATIENCE,
    RATHER,
    STORIES,
    THREATS,
)
from distill.demo.strangers import OTHER
from distill.demo.tickets import (
    COLUMNS,
    TASK,
    Ticket,
    distinct,
    fold,
    generate,
    write_csv,
)
from distill.demo.traffic import traffic
from distill.demo.words import MACHINES, THINGS, words
from gateway.errors import DataError

COUNT = 6000


@pytest.fixture(scope="module")
def world() -> list[Ticket]:
    return generate(COUNT, seed=1)


@pytest.fixture(scope="module")
def live() -> list[Ticket]:
    return list(islice(traffic(seed=1), 3000))


def says(part: str, options: Iterable[Phrase]) -> bool:
    """Whether the part holds all that one of the phrases says outside its alternatives."""
    outside = [re.split(r"\[[^\]]*\]", phrase.text) for phrase in options]
    return any(all(piece.strip() in part for piece in pieces) for pieces in outside)


def grammar() -> list[Phrase]:
    parts = [HURRY, HURRY_MONEY, HURRY_THINGS, PATIENCE, STORIES, THREATS]
    for intent in (*INTENTS, OTHER):
        parts += [intent.frames, intent.oblique, intent.details, intent.asides]
    parts += [ambiguity.frames for ambiguity in AMBIGUITIES]
    return [phrase for part in parts for phrase in part]


def ticket(text: str = "a b c d e", amount: float | None = None) -> Ticket:
    return Ticket(
        text=text,
        intent="double_charge",
        urgency="high",
        risk=("refund", "legal"),
        amount=amount,
        customer="c-00007",
        kind="plain",
    )


def share(world: list[Ticket], kind: str) -> float:
    return sum(each.kind == kind for each in world) / len(world)


# The world as a whole.


def test_texts_are_distinct_after_folding_case_and_space(world: list[Ticket]) -> None:
    assert len({" ".join(each.text.lower().split()) for each in world}) == COUNT


def test_twenty_thousand_distinct_tickets_can_be_made() -> None:
    assert len({fold(each.text) for each in generate(20_000, seed=2)}) == 20_000


def test_the_same_seed_gives_the_same_tickets_and_another_seed_others(world: list[Ticket]) -> None:
    assert generate(300, seed=1) == world[:300]
    others = {fold(each.text) for each in generate(300, seed=2)}
    assert sum(fold(each.text) in others for each in world[:300]) < 10


def test_the_kinds_have_their_shares(world: list[Ticket]) -> None:
    assert 0.03 <= share(world, "out_of_domain") <= 0.05
    assert 0.10 <= share(world, "ambiguous") <= 0.14
    assert 0.08 <= share(world, "two_topics") <= 0.12


def test_every_label_is_frequent_enough_to_be_learnt(world: list[Ticket]) -> None:
    intent, urgency, risk = TASK.heads
    assert TASK.outputs == 15 + 3 + 3
    intents = Counter(each.intent for each in world)
    assert set(intents) == set(intent.labels)
    assert min(intents.values()) >= 40
    assert min(sum(each.urgency == label for each in world) for label in urgency.labels) >= 600
    assert min(sum(label in each.risk for each in world) for label in risk.labels) >= 120


def test_lengths_are_those_of_short_mails(world: list[Ticket]) -> None:
    lengths = [len(each.text.split()) for each in world]
    assert min(lengths) >= 5
    assert max(lengths) <= 60
    assert 18 <= median(lengths) <= 28


def test_about_half_of_the_tickets_state_an_amount(world: list[Ticket]) -> None:
    stated = [each.amount for each in world if each.amount is not None]
    assert 0.45 <= len(stated) / COUNT <= 0.55
    assert all(6 <= amount <= 6000 and round(amount, 2) == amount for amount in stated)
    assert sum(amount > 1000 for amount in stated) > 50


def test_some_customers_write_more_than_once(world: list[Ticket]) -> None:
    customers = Counter(each.customer for each in world)
    assert 2000 < len(customers) < COUNT
    assert all(len(name) == 7 and name.startswith("c-") for name in customers)
    assert max(customers.values()) < COUNT * 0.01


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(DataError, match="-1 tickets") as caught:
        generate(-1, seed=1)
    assert caught.value.mend


def test_no_tickets_are_asked_for_and_none_are_made() -> None:
    assert generate(0, seed=1) == []


def test_a_used_up_grammar_is_an_error_and_not_an_endless_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tickets, "stream", lambda _dice, _mix: repeat(ticket()))
    with pytest.raises(DataError, match="only 1 of 2"):
        generate(2, seed=1)


def test_distinct_keeps_the_first_of_equal_texts() -> None:
    given = [ticket("One two"), ticket("one  TWO"), ticket("three")]
    assert [each.text for each in distinct(given)] == ["One two", "three"]


# Labels follow from what is said.


def test_dangerous_intents_are_present_carry_their_flag_and_are_never_called_calm(
    world: list[Ticket],
) -> None:
    for intent, flag in (("suspected_fraud", "fraud"), ("legal_threat", "legal")):
        found = [each for each in world if each.intent == intent]
        assert len(found) >= 40
        assert all(flag in each.risk and each.urgency != "low" for each in found)


def test_flags_stand_in_their_order_and_in_tickets_of_other_intents(world: list[Ticket]) -> None:
    assert all(each.risk == tuple(risk for risk in RISKS if risk in each.risk) for each in world)
    assert any(each.intent == "damaged_item" and "refund" in each.risk for each in world)
    assert any(each.intent == "double_charge" and "legal" in each.risk for each in world)


def test_a_threat_sets_the_legal_flag_and_a_denied_one_does_not(world: list[Ticket]) -> None:
    said = [each for each in world if "chargeback" in each.text or "Next stop is" in each.text]
    threatened = [each for each in said if each.intent in {"late_delivery", "damaged_item"}]
    denied = [each for each in world if "I'm not going to call a lawyer" in each.text]
    assert threatened
    assert all("legal" in each.risk for each in said)
    assert any("legal" not in each.risk for each in denied)


def test_urgency_follows_its_cue(world: list[Ticket]) -> None:
    hurried = [each for each in world if "so hurry please" in each.text]
    patient = [each for each in world if "plenty of time" in each.text]
    assert hurried
    assert patient
    assert {each.urgency for each in hurried} == {"high"}
    assert {each.urgency for each in patient} == {"low"}


def test_out_of_domain_messages_are_other_without_flags(world: list[Ticket]) -> None:
    strangers = [each for each in world if each.kind == "out_of_domain"]
    assert {(each.intent, each.risk, each.amount) for each in strangers} == {("other", (), None)}
    assert all(each.kind == "out_of_domain" for each in world if each.intent == "other")


def test_the_main_topic_comes_first_unless_it_is_named_as_the_main_one() -> None:
    dice = Dice("two topics")
    endings = tuple(pattern.removeprefix("{aside} ") for pattern in RATHER)
    for _ in range(300):
        draft = tickets._two_topics(dice)
        if draft.marks & {"high", "low"}:
            continue  # one part is a cue and no topic
        topics = list(draft.parts)
        main = draft.intent.frames
        others = [phrase for each in INTENTS if each is not draft.intent for phrase in each.asides]
        assert len(topics) == 2
        if topics[0].endswith(endings):
            topics.reverse()
        assert says(topics[0], main)
        assert says(topics[1], others)
        assert draft.intent.label not in DANGEROUS


def test_a_named_main_topic_is_not_always_the_first() -> None:
    dice = Dice("either order")
    endings = tuple(pattern.removeprefix("{aside} ") for pattern in RATHER)
    drafts = [tickets._two_topics(dice) for _ in range(1000)]
    named = sum(any(part.endswith(endings) for part in draft.parts) for draft in drafts)
    assert 350 <= named <= 450


def test_an_ambiguous_text_means_the_likelier_intent_in_seven_of_ten() -> None:
    dice = Dice("ambiguous")
    labels = Counter(tickets._ambiguous(dice).intent.label for _ in range(13_000))
    # Thirteen pairs, 1,000 tosses each; these two labels stand in one pair only.
    assert 650 <= labels["invoice_copy"] <= 750
    assert 250 <= labels["suspected_fraud"] <= 350


def test_the_same_ambiguous_wording_has_either_label(world: list[Ticket]) -> None:
    found = {each.intent for each in world if "not match" in each.text and each.kind == "ambiguous"}
    assert found == {"invoice_copy", "double_charge"}


# The grammar.


def test_every_intent_can_be_asked_in_many_ways() -> None:
    for intent in INTENTS:
        assert len(intent.frames) >= 12
        assert len(intent.oblique) >= 8
        assert len(intent.details) >= 8
        assert intent.asides or intent.label in DANGEROUS


def test_every_phrase_can_be_written_and_has_known_marks() -> None:
    dice = Dice("grammar")
    slots = words(dice, name="Ann", amount=12.5, powered=False)
    for phrase in grammar():
        written = sentence(wording(phrase.text, dice), slots)
        assert phrase.marks <= MARKS
        assert not set("[]{}|+") & set(written), written


def test_marks_are_read_from_the_start_of_a_line() -> None:
    assert phrases("+refund +low Pay me.\n\n  Hello.") == (
        Phrase("Pay me.", frozenset({"refund", "low"})),
        Phrase("Hello."),
    )


def test_inner_alternatives_are_chosen_and_empty_ones_leave_no_gap() -> None:
    assert wording("I [have|have] it [|], [a [b|b]|a [b|b]].", Dice("x")) == "I have it, a b."


def test_a_phrase_about_a_plug_is_about_a_machine() -> None:
    dice = Dice("powered")
    drawn = [words(dice, name="Ann", amount=9.0, powered=True) for _ in range(100)]
    assert {each["machine"] for each in drawn} <= set(MACHINES)
    assert all(each["item"] == each["machine"] != each["past"] for each in drawn)
    assert all(item[0] not in "aeiou" for item in THINGS + MACHINES)


# Handwriting and chance.


def test_a_quarter_of_the_texts_has_slips() -> None:
    dice, plain = Dice("slips"), "please send another parcel around"
    typed = [handwritten(plain, dice).lower() for _ in range(4000)]
    assert 0.21 <= sum(not each.startswith(plain) for each in typed) / 4000 <= 0.28


def test_slips_spare_digits_short_words_and_first_letters() -> None:
    dice, plain = Dice("digits"), "my 4711 $12.50 cat parcel"
    typed = {with_slips(plain, dice) for _ in range(200)}
    assert len(typed) > 10
    assert all(each.startswith("my 4711 $12.50 cat p") for each in typed)


def test_a_text_without_long_words_has_no_slips() -> None:
    assert with_slips("it is my 12 cat", Dice("none")) == "it is my 12 cat"


def test_some_texts_are_shouted_bare_or_without_capitals() -> None:
    dice = Dice("tone")
    typed = {handwritten("Hi, it's A 1.50 cat.", dice) for _ in range(2000)}
    assert {"HI, IT'S A 1.50 CAT.", "hi, it's a 1.50 cat.", "Hi its A 1.50 cat"} <= typed


def test_dice_use_only_what_python_promises_to_keep() -> None:
    dice, random = Dice("same"), Random("same")
    draws = [random.random() for _ in range(5)]
    assert dice.share() == draws[0]
    assert dice.chance(0.5) is (draws[1] < 0.5)
    assert dice.whole(1, 6) == 1 + int(draws[2] * 6)
    assert dice.pick("abcd") == "abcd"[int(draws[3] * 4)]
    assert dice.weighted("ab", (1.0, 1.0)) == ("a" if draws[4] < 0.5 else "b")


def test_an_option_without_weight_is_never_drawn() -> None:
    dice = Dice("weights")
    assert {dice.weighted("abc", (0.0, 2.0, 0.0)) for _ in range(200)} == {"b"}


# Handing over.


def test_the_table_reads_back_as_it_was_written(world: list[Ticket], tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    write_csv([*world[:500], ticket('say "hi", ok', amount=1204.5)], path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    for row, each in zip(rows, world[:500], strict=False):
        assert (row["text"], row["intent"], row["urgency"]) == (
            each.text,
            each.intent,
            each.urgency,
        )
        assert tuple(filter(None, row["risk"].split("|"))) == each.risk
        assert (float(row["amount"]) if row["amount"] else None) == each.amount
        assert row["customer"] == each.customer
    assert list(rows[500].values()) == [
        'say "hi", ok', "double_charge", "high", "refund|legal", "1204.50", "c-00007",
    ]  # fmt: skip


# Live traffic.


def test_live_texts_are_mostly_new(world: list[Ticket], live: list[Ticket]) -> None:
    seen = {fold(each.text) for each in world}
    assert sum(fold(each.text) in seen for each in live) < len(live) * 0.02


def test_live_traffic_is_seeded_and_has_its_own_seed_space(live: list[Ticket]) -> None:
    assert list(islice(traffic(seed=1), 50)) == live[:50]
    assert list(islice(traffic(seed=2), 50)) != live[:50]
    assert live[:50] != generate(50, seed=1)


def test_live_traffic_holds_danger_large_amounts_and_strangers(live: list[Ticket]) -> None:
    assert sum(each.intent in DANGEROUS for each in live) > len(live) * 0.08
    assert sum((each.amount or 0) > 1000 for each in live) > len(live) * 0.04
    assert 0.03 <= share(live, "out_of_domain") <= 0.05
    assert len({each.customer for each in live}) <= 400

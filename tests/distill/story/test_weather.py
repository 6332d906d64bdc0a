"""The weather: each wind brings its own messages, and a new thing changes what old words mean."""

from __future__ import annotations

from itertools import islice

from distill.demo.tickets import TASK, Ticket
from distill.story import weather
from distill.story.weather import FAIR, Weather

LABELS = TASK.heads[0].labels


def under(now: Weather, count: int = 400, seed: int = 3) -> list[Ticket]:
    return list(islice(weather.traffic(seed=seed, weather=lambda: now), count))


def test_the_same_seed_brings_the_same_messages() -> None:
    now = Weather(lost=0.3, crate=0.3)
    assert under(now) == under(now)
    assert under(now) != under(now, seed=4)


def test_fair_weather_is_ordinary_traffic() -> None:
    assert {each.kind for each in under(FAIR)} <= {
        "plain", "two_topics", "ambiguous", "out_of_domain",
    }  # fmt: skip


def test_each_wind_brings_about_its_share() -> None:
    kinds = [each.kind for each in under(Weather(lost=0.25, crate=0.5), 2000)]
    assert 0.2 < kinds.count("lost") / 2000 < 0.3
    assert 0.45 < kinds.count("crate") / 2000 < 0.55


def test_what_is_meant_for_others_is_other() -> None:
    assert {each.intent for each in under(Weather(lost=1.0))} == {"other"}


def test_whatever_is_asked_of_the_crate_is_a_product_question() -> None:
    found = under(Weather(crate=1.0), 2000)
    assert {each.intent for each in found} == {"product_question"}
    named = sum("crate" in each.text.lower() for each in found)
    assert named / 2000 > 0.9  # slips of the finger spoil some of the names
    assert any("refund" in each.text for each in found)  # words that meant something else before


def test_the_weather_may_change_between_two_messages() -> None:
    now = [FAIR]
    drawn = weather.traffic(seed=0, weather=lambda: now[0])
    before = list(islice(drawn, 50))
    now[0] = Weather(lost=1.0)
    after = list(islice(drawn, 50))
    assert {each.kind for each in before}.isdisjoint({each.kind for each in after})

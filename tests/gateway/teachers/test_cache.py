"""The answer cache: what is the same input, and how long its answer is kept."""

from __future__ import annotations

import hashlib

import pytest

from gateway.teachers.cache import AnswerCache, digest
from gateway.types import Instance, Prediction
from tests.gateway.telemetry.clock import Clock


def said(bundle: str) -> Prediction:
    return Prediction(heads=(), score=1.0, truncated=False, bundle=bundle)


def test_an_answer_is_found_until_it_is_too_old() -> None:
    clock = Clock()
    cache = AnswerCache(answers=10, ttl_s=60.0, clock=clock)
    cache.keep(b"a", said("one"))
    clock.now += 59.9
    assert cache.find(b"a") == said("one")
    assert cache.find(b"b") is None
    clock.now += 0.1  # to have been asked for made it no younger
    assert cache.find(b"a") is None
    assert cache.find(b"a") is None


def test_the_answer_that_was_least_asked_for_makes_room() -> None:
    cache = AnswerCache(answers=2, ttl_s=60.0, clock=Clock())
    cache.keep(b"a", said("one"))
    cache.keep(b"b", said("two"))
    cache.find(b"a")
    cache.keep(b"c", said("three"))
    assert cache.find(b"b") is None
    assert cache.find(b"a") == said("one")
    assert cache.find(b"c") == said("three")


def test_a_new_answer_to_the_same_input_takes_the_place_of_the_old_one() -> None:
    clock = Clock()
    cache = AnswerCache(answers=2, ttl_s=60.0, clock=clock)
    cache.keep(b"a", said("one"))
    cache.keep(b"b", said("two"))
    clock.now += 30.0
    cache.keep(b"a", said("three"))
    clock.now += 30.0
    assert cache.find(b"a") == said("three")
    assert cache.find(b"b") is None


def test_an_input_is_known_by_the_sha_256_of_all_its_parts() -> None:
    """The digest is fixed: text, fields by name, and what the answer depends on besides."""
    expected = hashlib.sha256(b'["gpt", "hi", [["a", 1], ["b", true]]]').digest()
    assert digest(Instance("hi", {"b": True, "a": 1}), "gpt") == expected
    assert digest(Instance("hi", {"a": 1, "b": True}), "gpt") == expected


@pytest.mark.parametrize(
    ("instance", "of"),
    [
        (Instance("hi "), "gpt"),
        (Instance("Hi"), "gpt"),
        (Instance("hi", {"a": None}), "gpt"),
        (Instance("hi", {"a": 1}), "gpt"),
        (Instance("hi", {"a": 1.0}), "gpt"),
        (Instance("hi", {"a": True}), "gpt"),
        (Instance("hi", {"a": "1"}), "gpt"),
        (Instance("hi"), "another"),
        (Instance("gpt"), "hi"),
        (Instance("\ud800"), "gpt"),  # half a surrogate pair: no UTF-8, and no reason to fail
    ],
)
def test_inputs_that_differ_at_all_are_not_the_same(instance: Instance, of: str) -> None:
    others = {digest(Instance("hi"), "gpt"), digest(Instance("hi", {"b": 1}), "gpt")}
    assert digest(instance, of) not in others

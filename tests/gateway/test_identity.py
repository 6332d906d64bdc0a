"""The names of requests and answers."""

from __future__ import annotations

import os
import time
import uuid

from gateway import identity


def test_an_answers_name_is_a_uuid_of_version_7_that_holds_the_time() -> None:
    before = time.time_ns() // 1_000_000
    name = uuid.UUID(identity.answer_id())
    after = time.time_ns() // 1_000_000
    assert name.version == 7
    assert name.variant == uuid.RFC_4122
    assert before <= name.int >> 80 <= after


def test_no_two_names_are_equal() -> None:
    assert len({identity.answer_id() for _ in range(10_000)}) == 10_000
    assert len({identity.request_id() for _ in range(10_000)}) == 10_000


def test_a_requests_name_is_32_digits() -> None:
    assert len(identity.request_id()) == 32
    int(identity.request_id(), 16)


def test_a_forked_process_gives_other_names() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, identity.request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 32).decode() != identity.request_id()
    os.close(reader)
    os.close(writer)

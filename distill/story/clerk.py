"""The clerk: the teacher of the story. He knows the gold label of every ticket that he has met.

He is the ticket world itself and no model, so that the story needs none, and says what he is: he is
wrong on a stated share of the texts, the same answer for the same text. He is asked as any chat
model is, over HTTP, and takes his time. What he has not met he does not answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import orjson

from distill.demo.tickets import TASK, Ticket
from gateway.contract import examples
from gateway.contract.examples import Example
from gateway.contract.manifest import Head
from gateway.teachers.faults import FaultServer, slow, turns

HEAD: Head = next(head for head in TASK.heads if head.name == "intent")  # all that he decides
MODEL = "the-clerk"
WRONG = 0.02  # share of texts on which he is
DELAY_S = 0.02  # of an answer: a hosted model takes longer, and a story has little time

_DIGITS = 8  # bytes of a hash that make a number


class Clerk:
    """Says the label of tickets that were shown to him before."""

    def __init__(self, wrong: float = WRONG) -> None:
        self._wrong = wrong
        self._gold: dict[str, str] = {}

    def meet(self, tickets: Iterable[Ticket]) -> Iterator[Ticket]:
        """The same tickets; he knows each from now on."""
        for ticket in tickets:
            self._gold[ticket.text] = ticket.intent
            yield ticket

    def label(self, text: str) -> str | None:
        """What he says of a text; None: he has not met it."""
        gold = self._gold.get(text)
        if gold is None:
            return None
        digest = hashlib.sha256(text.encode(errors="replace")).digest()
        lot, other = (int.from_bytes(part) for part in (digest[:_DIGITS], digest[_DIGITS:]))
        if lot >= self._wrong * 256**_DIGITS:
            return gold
        wrong = [label for label in HEAD.labels if label != gold]
        return wrong[other % len(wrong)]

    def said(self, question: str) -> Mapping[str, str | None]:
        """His answer to a message of a chat, as the gateway asks."""
        return {HEAD.name: self.label(orjson.loads(question)["text"])}

    def served(self) -> FaultServer:
        """A server at which he can be asked as a chat model."""
        return FaultServer(turns(slow(DELAY_S)), say=self.said)

    def log(self, path: Path, tickets: Iterable[Ticket]) -> int:
        """Write what he says of tickets as Example lines; returns how many."""
        return examples.write(path, (self._example(ticket) for ticket in self.meet(tickets)))

    def _example(self, ticket: Ticket) -> Example:
        said = self.label(ticket.text)
        labels = {} if said is None else {HEAD.name: said}
        return Example(text=ticket.text, labels=labels, source="teacher")

"""A WordPiece tokenizer.json without the pieces that nobody uses.

WordPiece takes the longest known piece at each place, so that a text whose pieces are all kept is
split as before, and a dropped piece falls apart into shorter ones. Only the tokenizer is changed:
the caller takes the rows `kept` of the embedding table. Tokenizers of other kinds come back as they
were.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from gateway.errors import DataError


@dataclass(frozen=True, slots=True)
class Pruned:
    """The smaller tokenizer; `kept[new id]` is the old id, in the old order."""

    tokenizer: bytes
    kept: tuple[int, ...]


def prune(
    tokenizer: bytes, texts: Iterable[str], *, minimum_count: int = 2, common: int = 0
) -> Pruned:
    """Keep special tokens, single characters, and pieces seen `minimum_count` times in `texts`.

    `common` also keeps the first so many pieces of the vocabulary: BERT's are ordered by how often
    they occur in general text, and traffic holds words that the teaching data does not. A text that
    would get an unknown piece keeps all of its own. Raises DataError without texts to count.
    """
    content = json.loads(tokenizer)
    asked = list(texts)
    if not asked:
        raise DataError(
            "the vocabulary cannot be pruned without texts", mend="give it the texts of training"
        )
    if content["model"].get("type") != "WordPiece":
        size = Tokenizer.from_str(tokenizer.decode()).get_vocab_size()
        return Pruned(tokenizer, tuple(range(size)))
    pieces = [encoded.tokens for encoded in _plain(tokenizer).encode_batch(asked)]
    counts = Counter(piece for row in pieces for piece in row)
    frequent = {piece for piece, count in counts.items() if count >= minimum_count}
    ordered = sorted(content["model"]["vocab"].items(), key=lambda pair: pair[1])
    keep = frequent | _always(content) | {piece for piece, _ in ordered[:common]}
    first = _without(content, keep)
    again = _plain(first.tokenizer).encode_batch(asked)
    unknown = content["model"]["unk_token"]
    rescued = {
        piece
        for before, after in zip(pieces, again, strict=True)
        if after.tokens.count(unknown) > before.count(unknown)
        for piece in before
    }
    return _without(content, keep | rescued) if rescued else first


def _plain(tokenizer: bytes) -> Tokenizer:
    """The tokenizer as it splits, with nothing cut and nothing padded."""
    plain = Tokenizer.from_str(tokenizer.decode())
    plain.no_truncation()
    plain.no_padding()
    return plain


def _always(content: dict[str, Any]) -> set[str]:
    """Special tokens, and every single character at a word's start and inside."""
    model = content["model"]
    prefix = model.get("continuing_subword_prefix", "##")
    letters = {piece for piece in model["vocab"] if len(piece.removeprefix(prefix)) == 1}
    added = {each["content"] for each in content.get("added_tokens") or ()}
    return letters | added | {model["unk_token"]}


def _without(content: dict[str, Any], keep: set[str]) -> Pruned:
    """The tokenizer with the pieces of `keep` alone, and its ids closed up."""
    old = dict(content["model"]["vocab"])
    old |= {each["content"]: each["id"] for each in content.get("added_tokens") or ()}
    kept = sorted((number, piece) for piece, number in old.items() if piece in keep)
    new = {piece: place for place, (_, piece) in enumerate(kept)}
    smaller = json.loads(json.dumps(content))
    vocabulary = content["model"]["vocab"]
    smaller["model"]["vocab"] = {piece: new[piece] for piece in new if piece in vocabulary}
    for each in smaller.get("added_tokens") or ():
        each["id"] = new[each["content"]]
    if smaller.get("padding"):
        smaller["padding"]["pad_id"] = new[smaller["padding"]["pad_token"]]
    _renumber(smaller.get("post_processor") or {}, new)
    text = json.dumps(smaller, ensure_ascii=False, separators=(",", ":"))
    return Pruned(text.encode(), tuple(number for number, _ in kept))


def _renumber(processor: dict[str, Any], new: dict[str, int]) -> None:
    """Give the special tokens that frame a text their new ids, in each form that names them."""
    for inner in processor.get("processors", ()):
        _renumber(inner, new)
    for side in ("sep", "cls"):
        if side in processor:
            processor[side] = [processor[side][0], new[processor[side][0]]]
    framing = processor.get("special_tokens", {})
    for token in framing.values() if isinstance(framing, dict) else ():
        token["ids"] = [new[piece] for piece in token["tokens"]]

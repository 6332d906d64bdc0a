"""Text -> token ids: the same bytes in training, in export and in serving.

Only this file reads tokenizer.json. It cuts text itself, so that a cut is always seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gateway.contract.manifest import InputLimits
from gateway.errors import BundleMismatch

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one text, special tokens included; `truncated`: the text was longer."""

    ids: list[int]
    truncated: bool


class Encoding:
    """A tokenizer.json and the limits of one bundle."""

    def __init__(self, tokenizer: bytes, limits: InputLimits) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleMismatch(
                f"tokenizer.json cannot be read: {error}",
                mend="use a tokenizer.json of the tokenizers library",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._limits = limits
        self._last = self._tokenizer.encode("").ids[-1:]  # [SEP], or nothing

    @property
    def vocabulary(self) -> int:
        """Number of token ids, one above the largest."""
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return max(ids, default=-1) + 1  # ids may have holes, so their count is not enough

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode texts; each is cut to the limits and says whether it was."""
        longest, most = self._limits.max_characters, self._limits.max_tokens
        pieces = self._tokenizer.encode_batch_fast([text[:longest] for text in texts])
        return [
            Encoded(ids=piece.ids, truncated=len(text) > longest)
            if len(piece.ids) <= most
            else Encoded(ids=piece.ids[: most - len(self._last)] + self._last, truncated=True)
            for text, piece in zip(texts, pieces, strict=True)
        ]


def pad(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Rows of ids -> (input_ids, attention_mask), both int64 of shape (rows, longest row)."""
    if len(rows) == 1:
        ids = np.array(rows, np.int64)
        return ids, np.ones_like(ids)
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return ids, mask

"""Text -> token ids: cuts are seen, special tokens survive them, padding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from gateway.contract.encoding import Encoding, pad
from gateway.contract.manifest import InputLimits
from gateway.errors import BundleMismatch

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5}
LIMITS = InputLimits(max_tokens=8, max_characters=40)


def tokenizer(*, special: bool = True) -> Tokenizer:
    """Words between [CLS] and [SEP], as BERT has them."""
    made = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))  # noqa: S106  no password
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return made


def encoding(made: Tokenizer | None = None, limits: InputLimits = LIMITS) -> Encoding:
    return Encoding((made or tokenizer()).to_str().encode(), limits)


def test_a_text_becomes_ids_between_the_special_tokens() -> None:
    (one,) = encoding().encode(["a b what"])
    assert one.ids == [2, 4, 5, 1, 3]
    assert not one.truncated


def test_a_text_of_just_the_limit_is_whole_and_one_more_is_cut() -> None:
    whole, cut = encoding().encode([" ".join("a" * 6), " ".join("a" * 6) + " b"])
    assert whole.ids == cut.ids == [2, 4, 4, 4, 4, 4, 4, 3]  # the end token survives the cut
    assert (whole.truncated, cut.truncated) == (False, True)


def test_without_special_tokens_the_first_words_are_kept() -> None:
    (cut,) = encoding(tokenizer(special=False)).encode([" ".join("ab" * 5)])
    assert cut.ids == [4, 5, 4, 5, 4, 5, 4, 5]
    assert cut.truncated


def test_a_text_of_too_many_characters_is_cut_and_says_so() -> None:
    whole, cut = encoding().encode(["a" + " " * 39, "a" + " " * 39 + "b"])
    assert whole.ids == cut.ids == [2, 4, 3]
    assert (whole.truncated, cut.truncated) == (False, True)


def test_padding_and_cutting_set_in_the_file_are_switched_off() -> None:
    made = tokenizer()
    made.enable_padding(length=20)
    made.enable_truncation(3)
    short, long = encoding(made).encode(["a", "a b a b"])
    assert short.ids == [2, 4, 3]
    assert long.ids == [2, 4, 5, 4, 5, 3]


def test_no_texts_give_no_rows() -> None:
    assert encoding().encode([]) == []


@given(st.lists(st.text(alphabet="ab ", max_size=60), max_size=5))
def test_a_batch_is_encoded_as_each_text_alone(texts: list[str]) -> None:
    together = encoding().encode(texts)
    assert together == [encoding().encode([text])[0] for text in texts]
    for text, one in zip(texts, together, strict=True):
        assert len(one.ids) <= LIMITS.max_tokens
        assert one.ids[0] == 2
        assert one.ids[-1] == 3
        if not one.truncated:
            assert len(one.ids) == 2 + len(text.split())


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_bytes_that_are_no_tokenizer_are_refused(raw: bytes) -> None:
    with pytest.raises(BundleMismatch, match=r"tokenizer\.json cannot be read"):
        Encoding(raw, LIMITS)


def test_the_vocabulary_reaches_to_the_largest_id() -> None:
    assert encoding().vocabulary == 6
    holes = Tokenizer(WordLevel({"[UNK]": 0, "a": 9}, unk_token="[UNK]"))  # noqa: S106
    assert encoding(holes).vocabulary == 10
    holes.add_tokens(["new"])
    assert encoding(holes).vocabulary == 1 + max(holes.get_vocab().values())


def test_rows_are_padded_with_zeros_that_the_mask_leaves_out() -> None:
    ids, mask = pad([[7, 8, 9], [5]])
    assert ids.tolist() == [[7, 8, 9], [5, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == np.int64


def test_a_lone_row_needs_no_padding() -> None:
    ids, mask = pad([[7, 0]])
    assert ids.tolist() == [[7, 0]]
    assert mask.tolist() == [[1, 1]]  # a real token may have the id 0

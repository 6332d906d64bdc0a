"""A pruned WordPiece splits what it kept as before, and never invents an unknown piece."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models

from exporters.prune_vocabulary import prune
from gateway.errors import DataError

TEXTS = ["my card is lost", "cards lost in the payment", "my payment!"]


def _old_ids(pruned_ids: list[int], kept: tuple[int, ...]) -> list[int]:
    return [kept[number] for number in pruned_ids]


def test_common_pieces_are_kept_though_no_text_has_them(tokenizer: bytes) -> None:
    whole = Tokenizer.from_str(tokenizer.decode())
    common = whole.get_vocab_size() // 2
    kept = prune(tokenizer, ["my"], common=common).kept
    assert set(range(common)) <= set(kept)
    assert len(kept) < whole.get_vocab_size()


def test_texts_whose_pieces_are_all_kept_are_split_as_before(tokenizer: bytes) -> None:
    before = Tokenizer.from_str(tokenizer.decode())
    pruned = prune(tokenizer, TEXTS, minimum_count=1)
    after = Tokenizer.from_str(pruned.tokenizer.decode())
    assert after.get_vocab_size() == len(pruned.kept) < before.get_vocab_size()
    assert pruned.kept == tuple(sorted(pruned.kept))
    for text in TEXTS:
        assert after.encode(text).tokens == before.encode(text).tokens
        assert _old_ids(after.encode(text).ids, pruned.kept) == before.encode(text).ids


def test_a_piece_seen_too_rarely_falls_apart_into_letters(tokenizer: bytes) -> None:
    after = Tokenizer.from_str(prune(tokenizer, TEXTS, minimum_count=2).tokenizer.decode())
    assert after.encode("payment", add_special_tokens=False).tokens == ["payment"]  # seen twice
    assert after.encode("the", add_special_tokens=False).tokens == ["t", "##h", "##e"]  # once
    assert after.token_to_id("unused") is None


def test_special_tokens_and_letters_stay_with_their_new_ids(tokenizer: bytes) -> None:
    pruned = prune(tokenizer, ["my"])
    after = Tokenizer.from_str(pruned.tokenizer.decode())
    assert after.encode("").tokens == ["[CLS]", "[SEP]"]
    assert after.token_to_id("[MASK]") == 4
    assert all(after.token_to_id(f"##{letter}") is not None for letter in "az")
    assert sorted(after.get_vocab().values()) == list(range(len(pruned.kept)))


def test_a_text_that_would_get_an_unknown_piece_keeps_its_own() -> None:
    vocabulary = {"[UNK]": 0, "rare": 1, "pay": 2, "p": 3}  # no letters for "rare" to fall into
    content = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")).to_str()  # noqa: S106
    pruned = prune(content.encode(), ["rare", "pay", "pay"])
    assert pruned.kept == (0, 1, 2, 3)
    assert Tokenizer.from_str(pruned.tokenizer.decode()).encode("rare").tokens == ["rare"]


def test_every_form_that_names_a_special_token_gets_its_new_id() -> None:
    vocabulary = {"a": 0, "zz": 1, "[UNK]": 2, "[CLS]": 3, "[SEP]": 4, "[PAD]": 5}
    content = json.loads(Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")).to_str())  # noqa: S106
    content["added_tokens"] = [
        {
            "id": vocabulary[name],
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name in ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
    ]
    content["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 5,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    bert = {"type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 3]}
    content["post_processor"] = {"type": "Sequence", "processors": [bert]}
    pruned = prune(json.dumps(content).encode(), ["a a"])
    assert pruned.kept == (0, 2, 3, 4, 5)  # all but "zz"
    assert Tokenizer.from_str(pruned.tokenizer.decode()).encode("a").ids == [2, 0, 3]
    assert json.loads(pruned.tokenizer)["padding"]["pad_id"] == 4


def test_another_kind_of_tokenizer_comes_back_as_it_was() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "pay": 1}, unk_token="[UNK]"))  # noqa: S106
    content: str = words.to_str()
    pruned = prune(content.encode(), ["pay"])
    assert pruned.tokenizer == content.encode()
    assert pruned.kept == (0, 1)


def test_pruning_without_texts_is_refused(tokenizer: bytes) -> None:
    with pytest.raises(DataError, match="without texts"):
        prune(tokenizer, [])

"""A tiny seeded encoder, its WordPiece tokenizer and its graph, made once."""

from __future__ import annotations

import string

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from distill.networks.encoder import Encoder, EncoderShape
from exporters import graph
from gateway.contract.calibration import Calibration
from gateway.contract.encoding import Encoding
from gateway.contract.manifest import Head, HeadCalibration, HeadKind, InputLimits, Task

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "my card is lost stolen broken late new old the a where when why how can you i it pay "
    "payment money bank account transfer cash refund fee rate charge limit pin code top up app "
    "phone help please ##s ##ing ##ed ##ment ##er unused rare"
)
TEXTS = (
    "where is my card",
    "my card is lost",
    "the payment is late",
    "how can i transfer money",
    "why is the fee so high please help",
    "i lost my pin code",
    "cards stolen",
    "top up the app",
    "a refund",
    "when can you charge my account",
)


@pytest.fixture(scope="session")
def tokenizer() -> bytes:
    pieces = [*SPECIAL, *string.ascii_lowercase, "!", "."]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase]
    pieces += [word for word in WORDS.split() if word not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106  no password
    made.add_special_tokens(list(SPECIAL))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    content: str = made.to_str()
    return content.encode()


@pytest.fixture(scope="session")
def limits() -> InputLimits:
    return InputLimits(max_tokens=64, max_characters=1000)


@pytest.fixture(scope="session")
def rows(tokenizer: bytes, limits: InputLimits) -> list[list[int]]:
    return [encoded.ids for encoded in Encoding(tokenizer, limits).encode(TEXTS)]


@pytest.fixture(scope="session")
def task() -> Task:
    labels = ("lost", "late", "other")
    return Task(name="cards", heads=(Head(name="intent", kind=HeadKind.CHOICE, labels=labels),))


@pytest.fixture(scope="session")
def parts() -> tuple[HeadCalibration, ...]:
    return (HeadCalibration(head="intent", temperature=1.0, rows=0),)


@pytest.fixture(scope="session")
def calibration(task: Task, parts: tuple[HeadCalibration, ...]) -> Calibration:
    return Calibration(task, parts)


@pytest.fixture(scope="session")
def network(tokenizer: bytes) -> Encoder:
    torch.manual_seed(0)
    vocabulary = Tokenizer.from_str(tokenizer.decode()).get_vocab_size()
    made = Encoder(
        EncoderShape(
            vocabulary=vocabulary,
            hidden=16,
            layers=2,
            attention_heads=2,
            feed_forward=32,
            positions=64,
            outputs=3,
        )
    )
    with torch.no_grad():  # as after training: no two vectors alike, no bias 0
        for each in made.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return made.eval()


@pytest.fixture(scope="session")
def fp32(network: Encoder) -> bytes:
    return graph.export(network)

"""A chat model behind a real OpenAI-compatible server: `transformers serve`, with models made here.

One model is random and talks nonsense. The other has weights that are set by hand, so that whatever
it is asked it writes one answer and stops: its embeddings say which token comes next, and its layer
adds nothing to them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.acceptance.conftest import Starter
from tests.factories import CONFIDENT, UNSURE

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

_ANSWER = '{"intent": "fraud", "flags": ["legal"]}'
_END = "<end>"
_WRITTEN = 10_000  # micro-USD for a token: no prompt here is as many tokens long
_READY = re.compile(r"running on (http://\S+)")
_CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True, slots=True)
class Models:
    """A server up to /v1, and the names of its two models."""

    url: str
    taught: str
    random: str

    def teacher(self, model: str, **more: Any) -> dict[str, Any]:
        """The settings of a teacher. A token costs 1 micro-USD to read and 10,000 to write."""
        chat = {"url": self.url, "model": model, "max_tokens": 8}
        prices = {"input_usd_per_million": 1, "output_usd_per_million": _WRITTEN}
        return {"openai": chat | prices | more, "timeout_s": 60}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """Both models, served."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = _tokenizer()
    _save(_taught(tokenizer), tokenizer, folder / "taught")
    _save(LlamaForCausalLM(_config(tokenizer)), tokenizer, folder / "random")
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    process = subprocess.Popen(
        [*serve, "--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--default-seed", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")},
    )
    assert process.stderr is not None
    try:
        said = ""
        while (found := _READY.search(said)) is None:
            line = process.stderr.readline()
            assert line, f"the server ended: {said}"
            said += line
        yield Models(f"{found[1]}/v1", str(folder / "taught"), str(folder / "random"))
    finally:
        process.kill()
        process.communicate()


def test_the_answer_of_a_real_server_is_the_teachers(start: Starter, models: Models) -> None:
    """The same reply that OpenAI's own client gets, read and priced."""
    gateway = start(teacher=models.teacher(models.taught))
    reply = gateway.ask(UNSURE)
    assert reply["route"] == "teacher"
    assert reply["labels"] == {"intent": "fraud", "flags": ["legal"]}
    written, read = billed(reply)
    assert written == 2  # the answer and its end
    assert read > len(UNSURE)  # a token is a byte here, and the prompt is more than the text
    with OpenAI(base_url=models.url, api_key="none", max_retries=0) as client:
        asked = [{"role": "user", "content": UNSURE}]
        plain = client.chat.completions.create(model=models.taught, messages=asked)  # type: ignore[arg-type]
    assert plain.choices[0].message.content == _ANSWER


def test_the_votes_of_a_real_server_are_counted_and_all_paid_for(
    start: Starter, models: Models
) -> None:
    gateway = start(teacher=models.teacher(models.taught, samples=3, temperature=0.5))
    reply = gateway.ask(UNSURE)
    assert reply["confidence"] == {"intent": 1.0, "flags": 1.0}
    assert billed(reply)[0] == 6  # three times two tokens


def test_the_nonsense_of_a_random_model_is_no_answer_and_is_paid_for(
    start: Starter, models: Models
) -> None:
    """Eight tokens of nonsense are cut off; the student's answer stands where it may."""
    gateway = start(teacher=models.teacher(models.random))
    reply = gateway.ask(UNSURE)
    assert (reply["route"], reply["labels"]["intent"]) == ("fallback", "refund")
    assert billed(reply)[0] % 8 == 0  # of each attempt
    assert billed(reply)[0] > 0
    assert gateway.ask(CONFIDENT)["route"] == "student"
    assert gateway.leave() == 0
    assert [record.failure for record in gateway.records()] == ["teacher_garbled", ""]


def billed(reply: dict[str, Any]) -> tuple[int, int]:
    """Tokens that were written and read, by what the teacher cost."""
    cost: float = reply["cost_usd"]["teacher"]
    return divmod(round(cost * 1_000_000), _WRITTEN)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Single bytes, and the whole answer as one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_tokens([AddedToken(_ANSWER, normalized=False)])
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=plain, eos_token=_END, pad_token=_END
    )
    tokenizer.chat_template = _CHAT
    return tokenizer


def _config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def _taught(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """After any token comes the answer, after the answer the end."""
    model = LlamaForCausalLM(_config(tokenizer))
    (answer,) = tokenizer.encode(_ANSWER, add_special_tokens=False)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[answer] = torch.eye(16)[1]
        model.lm_head.weight[answer, 0] = 10.0
        model.lm_head.weight[tokenizer.eos_token_id, 1] = 10.0
    return model


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

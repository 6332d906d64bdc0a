"""How much of a text a model reads, in training and wherever it is served."""

from __future__ import annotations

from distill.networks.encoder import Encoder
from gateway.contract.manifest import InputLimits

TEACHER_TOKENS = 256  # what MiniLM was trained to read; the student may be given less
_CHARACTERS_A_TOKEN = 16  # far above any language's mean, so that tokens decide what is cut


def input_limits(max_tokens: int) -> InputLimits:
    """The limits of a model that reads so many tokens."""
    return InputLimits(max_tokens=max_tokens, max_characters=max_tokens * _CHARACTERS_A_TOKEN)


def teacher_limits(network: Encoder) -> InputLimits:
    """The limits of a teacher, which may have fewer positions than TEACHER_TOKENS."""
    return input_limits(min(TEACHER_TOKENS, network.shape.positions))

"""MLServer: a custom runtime behind the Open Inference Protocol, one worker process a core.

Adaptive batching is left off: it waits for a timer, and costs more than it saves here.
"""

from __future__ import annotations

import json

from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import StringCodec  # type: ignore[import-not-found]
from mlserver.types import (  # type: ignore[import-not-found]
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)
from model import Model  # type: ignore[import-not-found]


class Student(MLModel):  # type: ignore[misc]
    """One model in each worker."""

    async def load(self) -> bool:
        """Before the first request."""
        self.model = Model.of_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The texts of one request, or of several that MLServer has joined."""
        answers = self.model.answer(StringCodec.decode_input(payload.inputs[0]))
        labels = [json.dumps(answer["labels"]) for answer in answers]
        scores = [answer["score"] for answer in answers]
        rows = [len(answers)]
        return InferenceResponse(
            model_name=self.name,
            id=payload.id,
            outputs=[
                ResponseOutput(name="labels", shape=rows, datatype="BYTES", data=labels),
                ResponseOutput(name="score", shape=rows, datatype="FP64", data=scores),
            ],
        )

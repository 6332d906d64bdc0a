"""BentoML: one worker a core, adaptive batching in front of each."""

import os
from typing import Any

import bentoml  # type: ignore[import-not-found]
from model import WORKERS, Model  # type: ignore[import-not-found]

_BATCH = 8  # texts: batches of 32 pad more than they save


@bentoml.service(
    workers=int(os.environ[WORKERS]),
    traffic={"timeout": 30, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
)
class Student:
    """One model in each worker."""

    def __init__(self) -> None:
        self.model = Model.of_environment()

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True, max_batch_size=_BATCH, max_latency_ms=1000, route="/predict"
    )
    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """The texts of one request, or of several that BentoML has joined."""
        return list(self.model.answer(texts))

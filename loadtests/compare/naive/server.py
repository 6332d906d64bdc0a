"""What most people write first: FastAPI, a synchronous endpoint, ONNX Runtime, no batching.

python -m uvicorn server:app --workers 2 --no-access-log
"""

from __future__ import annotations

from fastapi import FastAPI
from model import Answer, Model  # type: ignore[import-not-found]
from pydantic import BaseModel

model = Model.of_environment()
app = FastAPI()


class Question(BaseModel):
    """Some texts."""

    texts: list[str]


class Reply(BaseModel):
    """An answer to each."""

    answers: list[dict[str, object]]


@app.post("/predict", response_model=Reply)
def predict(question: Question) -> dict[str, list[Answer]]:
    """Answer on Starlette's thread pool."""
    return {"answers": model.answer(question.texts)}

"""A teacher behind the Open Inference Protocol, version 2, over REST: Triton, KServe, MLServer.

Another Understudy is one, too. One text goes out as a BYTES tensor; a tensor for each head comes
back, with a label or with a number for each of its labels. A reply that leaves anything to guess is
garbled: wrong labels would be taught to students.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.contract.calibration import sigmoid, softmax
from gateway.contract.manifest import Head, HeadKind, Task
from gateway.errors import SettingsError, TeacherGarbled, TeacherUnavailable
from gateway.teachers import opinion
from gateway.teachers.base import Said
from gateway.teachers.upstream import Upstream
from gateway.types import HeadPrediction, Instance, Prediction, Route

_MODEL = 48  # characters of a model's name, its last, so that a record has room for the whole name
_DIGITS = 12  # of the fingerprint behind it: 48 bits
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_MOST_TENSORS = 256  # of a reply: a task has a few heads
_SUM = 0.01  # by which probabilities of a choice may miss 1: FP16 has three digits
_UNANSWERED = frozenset({Route.ABSTAIN, Route.FALLBACK})

Tensors = Mapping[str, Mapping[str, Any]]


class OipTeacher:
    """Asks one model. It closes its upstream. Its name tells the model and how it is asked.

    `outputs` names the tensor of each head that is not called as the head is. A tensor of BYTES
    holds a label (a JSON list of labels for flags), one of FP32 a number for each label, in the
    order of the head's labels: `scores` says whether these are logits or probabilities.
    """

    def __init__(
        self,
        upstream: Upstream,
        task: Task,
        *,
        model: str,
        version: str | None = None,
        input_name: str = "text",
        outputs: Mapping[str, str] | None = None,
        scores: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        self.task = task
        named = outputs or {}
        asked = repr((model, version, input_name, sorted(named.items()), scores))
        self.name = f"{model[-_MODEL:]}@{hashlib.sha256(asked.encode()).hexdigest()[:_DIGITS]}"
        self._upstream = upstream
        self._path = f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"
        self._input = input_name
        self._tensors = {
            head.name: (outputs or {}).get(head.name, head.name) for head in task.heads
        }
        self._scores = scores
        if unknown := sorted((outputs or {}).keys() - self._tensors.keys()):
            raise SettingsError(
                f"teacher.oip.outputs: the task has no head {unknown[0]!r}",
                mend=f"name heads of {', '.join(self._tensors)}",
            )

    async def answer(self, instance: Instance) -> Said:
        """Ask for one text; fields do not go out. Raises what Upstream raises.

        TeacherUnavailable, too, where another Understudy did not answer by its own best: it
        abstained, or fell back on a student that was not sure.
        """
        tensor = {"name": self._input, "shape": [1], "datatype": "BYTES", "data": [instance.text]}
        body = await self._upstream.post(self._path, orjson.dumps({"inputs": [tensor]}))
        try:
            return Said(self._read(_tensors(body)))
        except _Unusable as error:
            raise TeacherGarbled(
                f"the reply of {self.name} cannot be used: {error}",
                mend="name the tensors in teacher.oip.outputs, with labels as the student has them",
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._upstream.close()

    def _read(self, tensors: Tensors) -> Prediction:
        own = set(self._tensors.values())
        if "route" in tensors.keys() - own:
            route = _text(tensors, "route")
            if route in _UNANSWERED:
                raise TeacherUnavailable(f"{self.name} has no answer of its own: route {route}")
        heads = [self._head(head, tensors) for head in self.task.heads]
        score = _share(tensors, "score") if "score" in tensors.keys() - own else None
        return opinion.prediction(self.task, heads, by=self.name, score=score)

    def _head(self, head: Head, tensors: Tensors) -> HeadPrediction:
        name = self._tensors[head.name]
        if name not in tensors:
            raise _Unusable(f"there is no tensor {name!r}, of the head {head.name}")
        kind = tensors[name].get("datatype")
        if kind == "BYTES":
            beside = f"confidence.{name}"
            sure = _share(tensors, beside) if beside in tensors else 1.0
            return opinion.of_labels(head, _labels(head, _text(tensors, name)), sure)
        if isinstance(kind, str) and kind in _FLOATS:
            numbers = _numbers(tensors, name, len(head.labels))
            if self._scores == "logits":
                raised = softmax if head.kind is HeadKind.CHOICE else sigmoid
                return opinion.of_probabilities(head, raised(numbers))
            return opinion.of_probabilities(head, _checked(head, numbers, name))
        raise _Unusable(f"{name} is of a datatype that is neither BYTES nor a float")


class _Unusable(Exception):
    """What is wrong with a reply. It shows nothing that the server wrote."""


def _tensors(body: bytes) -> Tensors:
    """The output tensors by name."""
    content = orjson.loads(body)
    outputs = content.get("outputs") if isinstance(content, dict) else None
    if not isinstance(outputs, list) or len(outputs) > _MOST_TENSORS:
        raise _Unusable("there is no list of outputs")
    found: dict[str, Mapping[str, Any]] = {}
    for tensor in outputs:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str) or name in found:
            raise _Unusable("an output has no name, or that of another")
        found[name] = tensor
    return found


def _data(tensors: Tensors, name: str, count: int) -> list[Any]:
    """The elements of one row of `count`; data may be nested as its shape is."""
    tensor = tensors[name]
    if tensor.get("shape") not in ([count], [1, count]):
        raise _Unusable(f"{name} is not of the shape [{count}] or [1, {count}]")
    data = tensor.get("data")
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if not isinstance(data, list) or len(data) != count:
        raise _Unusable(f"{name} has other data than its shape says")
    return data


def _text(tensors: Tensors, name: str) -> str:
    (value,) = _data(tensors, name, 1)
    if not isinstance(value, str):
        raise _Unusable(f"{name} is no text")
    return value


def _numbers(tensors: Tensors, name: str, count: int) -> NDArray[np.float32]:
    data = _data(tensors, name, count)
    if any(type(value) not in (int, float) for value in data):  # a bool is an int, too
        raise _Unusable(f"{name} has data that are no numbers")
    with np.errstate(over="ignore"):
        numbers = np.array(data, np.float64).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise _Unusable(f"{name} has a number that is not finite")
    return numbers


def _share(tensors: Tensors, name: str) -> float:
    """A number from 0 to 1."""
    value = float(_numbers(tensors, name, 1)[0])
    if not 0.0 <= value <= 1.0:
        raise _Unusable(f"{name} is no probability")
    return value


def _checked(head: Head, numbers: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Numbers that are probabilities; those of a choice sum to 1."""
    if numbers.min() < 0.0 or numbers.max() > 1.0:
        raise _Unusable(f"{name} has numbers that are no probabilities; are they logits?")
    if head.kind is HeadKind.FLAGS:
        return numbers
    total = numbers.sum()
    if abs(total - 1.0) > _SUM:
        raise _Unusable(f"{name} has probabilities that do not sum to 1; are they logits?")
    result: NDArray[np.float32] = numbers / total
    return result


def _labels(head: Head, said: str) -> Sequence[str]:
    """The label of a choice, or the JSON list of those of flags."""
    labels: Any = [said]
    if head.kind is HeadKind.FLAGS:
        try:
            labels = orjson.loads(said)
        except orjson.JSONDecodeError as error:
            raise _Unusable(f"the flags of {head.name} are no JSON list of labels") from error
    if not isinstance(labels, list) or any(label not in head.labels for label in labels):
        raise _Unusable(f"{head.name} has no such label")
    if len(set(labels)) != len(labels):
        raise _Unusable(f"a label of {head.name} is said twice")
    return labels

"""A strict YAML document -> a pydantic model, with errors a person can act on.

Used for understudy.yaml and recipe.yaml. All mistakes of a file come in one message, a line each:
the key, what is wrong, the nearest known key.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from gateway.errors import UsageError

Model = TypeVar("Model", bound=BaseModel)

_LIMIT = 1_000_000  # bytes; a settings file is a few kilobytes


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002  PyYAML's signature
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be plain text; quote {{ }}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path, model: type[Model], error: type[UsageError]) -> Model:
    """Read and validate `path`; every mistake becomes one `error` that names file and key."""
    return validate(load(path, error), model, error, where=str(path))


def load(path: Path, error: type[UsageError]) -> dict[str, Any]:
    """Read `path` as one strict YAML mapping."""
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise error(
            f"{path}: {problem.strerror}", mend="name a file that exists and can be read"
        ) from problem
    if len(raw) > _LIMIT:
        raise error(f"{path}: {len(raw)} bytes is no settings file", mend="name another file")
    try:
        content = yaml.load(raw, Loader=_StrictLoader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as problem:  # ValueError: 2024-13-45
        raise error(f"{path}: not YAML: {problem}", mend="mend the line that it names") from problem
    if not isinstance(content, dict):
        raise error(
            f"{path}: {'empty' if content is None else 'not a mapping of keys'}",
            mend="write `key: value` lines; `understudy init` makes a commented file",
        )
    return content


def validate(
    content: dict[str, Any], model: type[Model], error: type[UsageError], *, where: str
) -> Model:
    """Validate a mapping; `where` names it in the message."""
    try:
        return model.model_validate(content)
    except ValidationError as problem:
        lines = [
            f"{where}: {_describe(detail, model)}" for detail in problem.errors(include_url=False)
        ]
        raise error(
            "\n".join(lines), mend="mend the keys above; unknown keys are never ignored"
        ) from problem


def _describe(detail: Any, model: type[BaseModel]) -> str:
    place = [str(step) for step in detail["loc"]]
    key = ".".join(place) or "the document"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _known(model, place[:-1]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{key}: unknown key{hint}"
    if detail["type"] == "missing":
        return f"{key}: this key is required"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    value = detail["input"]
    shown = f" (it is {value!r})" if isinstance(value, str | int | float | bool | None) else ""
    return f"{key}: {message}{shown}"


def _known(model: type[BaseModel], place: list[str]) -> list[str]:
    """The keys that are known at `place`, found by walking the model's annotations."""
    models = [model]
    for step in place:
        inner = [m for each in models for m in _models_of(each, step)]
        models = inner or models
    return [name for each in models for name in each.model_fields]


def _models_of(model: type[BaseModel], step: str) -> list[type[BaseModel]]:
    field = model.model_fields.get(step)
    if field is None:
        return []
    found: list[type[BaseModel]] = []
    queue: list[Any] = [field.annotation]
    while queue:
        kind = queue.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        queue.extend(get_args(kind))
    return found

"""What the pages tell a person to type is there: commands, options, targets, documents."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from distill import recipe
from gateway import document
from gateway.api.feedback import FeedbackRequest
from gateway.api.schemas import PredictRequest, ProblemReply, Result
from gateway.cli import app
from gateway.errors import RecipeError, SettingsError
from gateway.settings import Settings
from tests.house.pages import ROOT, page, pages

_TARGET = re.compile(r"^([a-z-]+):(?!=)", re.MULTILINE)
_RECIPE: dict[str, Any] = {
    "version": 1,
    "task": "tickets",
    "data": {"path": "tickets.csv", "heads": {"intent": {"kind": "choice", "column": "intent"}}},
}
_SETTINGS: dict[str, Any] = {
    "version": 1,
    "tasks": {"tickets": {"student": {"bundle": "s"}, "teacher": {"bundle": "t"}}},
}
# The key by which a document is known -> its shape.
_SHAPES: dict[str, type[BaseModel]] = {
    "code": ProblemReply,
    "score": Result,
    "input": PredictRequest,
    "inputs": PredictRequest,
    "record": FeedbackRequest,
}


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, comments and continued lines resolved."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def _shown(program: str) -> list[tuple[str, list[str]]]:
    """(page, arguments) of every use of a program in the pages' shell blocks."""
    return [
        (each.name, words[1:])
        for each in pages()
        for block in each.blocks("sh")
        for words in _commands(block)
        if Path(words[0]).name == program
    ]


def _parse(arguments: list[str]) -> None:
    """Read a command line as `understudy` would, without running it."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("understudy", [], resilient_parsing=True)
    rest = list(arguments)
    while hasattr(command, "get_command"):
        name = rest.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"understudy {' '.join(arguments)}: no command {name!r}"
    command.make_context(command.name, rest, parent=context)


def _with(base: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """`part` laid over `base`, key by key: at the first level, that of `data`, and in each task."""
    merged = base | part
    if isinstance(base.get("data"), dict) and "data" in part:
        merged["data"] = base["data"] | part["data"]
    if "tasks" in part:
        (usual,) = base["tasks"].values()
        merged["tasks"] = {name: usual | task for name, task in part["tasks"].items()}
    return merged


@pytest.mark.parametrize("shown", _shown("understudy"), ids=lambda shown: " ".join(shown[1]))
def test_every_command_that_a_page_shows_can_be_given(shown: tuple[str, list[str]]) -> None:
    _parse(shown[1])


@pytest.mark.parametrize("wrong", [["serv"], ["serve", "--prot", "1"], ["bundle", "shew", "x"]])
def test_a_command_that_is_not_there_is_noticed(wrong: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no (such )?(command|option)"):
        _parse(wrong)


def test_every_make_target_that_a_page_shows_exists_and_all_are_listed() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(_TARGET.findall(makefile))
    shown = {words[0] for _, words in _shown("make")}
    assert {"demo", "test"} <= shown <= targets
    for target in targets:
        assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE), f"{target} has no help"


def test_the_readme_shows_the_way_from_data_to_serving() -> None:
    used = [words[0] for name, words in _shown("understudy") if name == "README.md"]
    assert used[:5] == ["init", "teach", "distill", "check", "serve"]


def test_every_reply_and_body_that_a_page_shows_has_the_shape_of_the_interface() -> None:
    seen = set()
    for each in pages():
        for block in each.blocks("json"):
            content = json.loads(block)
            key = next(key for key in _SHAPES if key in content)
            _SHAPES[key].model_validate(content)
            seen.add(key)
    assert seen == _SHAPES.keys()


def test_the_readmes_request_is_a_request() -> None:
    (curl,) = [words for name, words in _shown("curl") if name == "README.md"]
    PredictRequest.model_validate_json(curl[curl.index("-d") + 1])


def test_every_settings_file_and_recipe_that_a_page_shows_is_accepted() -> None:
    kinds = set()
    for each in pages():
        for block in each.blocks("yaml"):
            content = yaml.safe_load(block)
            if content.keys() <= Settings.model_fields.keys():
                whole = _with(_SETTINGS, content)
                document.validate(whole, Settings, SettingsError, where=each.name)
                kinds.add("settings")
            else:
                recipe.parse(_with(_RECIPE, content), path=ROOT / each.name)
                kinds.add("recipe")
    assert kinds == {"settings", "recipe"}


def test_a_page_with_a_misspelt_key_would_be_refused() -> None:
    with pytest.raises(RecipeError):
        recipe.parse(_with(_RECIPE, {"certficate": {"alpha": 0.1}}), path=ROOT / "x.yaml")


def test_the_readme_says_that_the_demo_is_synthetic_and_where_the_benchmarks_are() -> None:
    text = page("README.md").text
    assert "synthetic" in text
    assert "docs/benchmarks.md" in text

"""The reference says all that the code has, and nothing that it has not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distill.recipe import Recipe
from gateway.api import problems, schemas
from gateway.cli import app
from gateway.contract.manifest import Manifest
from gateway.errors import RequestError, ServingError, TeacherError, UnderstudyError
from gateway.settings import Settings, TeacherSettings
from gateway.shadow.account import Part
from gateway.shadow.rate import Rate
from gateway.telemetry.families import Families
from gateway.telemetry.metrics import Metrics
from gateway.types import Reason, Route
from tests.conftest import Client
from tests.factories import TASK
from tests.house.pages import page

REQUIRED = "required"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _mark(field: FieldInfo) -> str:
    """How a key stands for many: in a list, or by name."""
    if not _models(field.annotation):
        return ""
    outer = str(field.annotation)
    return ".<name>" if outer.startswith("dict") else "[]" if outer.startswith("tuple") else ""


def _keys(
    model: type[BaseModel],
    prefix: str = "",
    given: BaseModel | None = None,
    within: tuple[type[BaseModel], ...] = (),
) -> Iterator[tuple[str, Any]]:
    """(dotted key, its default) of every value that a document of this model may hold.

    What a model holds of its own kind has the keys that are explained already, and is one value.
    """
    within = (*within, model)
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        inner = [
            part
            for part in _models(field.annotation)
            if not any(issubclass(outer, part) for outer in within)
        ]
        default = field.get_default(call_default_factory=True)
        for part in inner:
            whole = default if isinstance(default, BaseModel) else None
            yield from _keys(part, f"{prefix}{name}{_mark(field)}.", whole, within)
        if not inner:
            yield prefix + name, _default(field, getattr(given, name, None))


def _default(field: FieldInfo, given: Any) -> Any:
    if given is None and field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True) if given is None else given
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _told(name: str) -> dict[str, Any]:
    """Key -> default, as the tables of a page say."""
    empty = "*empty*"
    return {
        row[0]: "" if row[1] == empty else yaml.safe_load(row[1])
        for row in page(name).rows()
        if len(row) == 3
    }


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("docs/reference/settings.md", Settings),
        ("docs/reference/recipe.md", Recipe),
        ("docs/reference/bundle.md", Manifest),
    ],
)
def test_every_key_of_a_document_is_explained_with_its_default(
    name: str, model: type[BaseModel]
) -> None:
    # A teacher that a recipe asks has the keys of the settings' teacher, which are told there.
    elsewhere = (TeacherSettings,) if model is Recipe else ()
    assert _told(name) == dict(_keys(model, within=elsewhere))


def test_every_metric_is_explained_with_its_type() -> None:
    metrics = Metrics([TASK])
    metrics.follow_records(dict)
    metrics.follow_skips(dict)
    metrics.follow_served(dict)
    types = dict(
        line.split()[2:4]
        for line in metrics.render().decode().splitlines()
        if line.startswith("# TYPE understudy_")
    )
    told = {row[0]: row[1] for row in page("docs/reference/metrics.md").rows() if len(row) == 4}
    assert told == types


def test_every_metric_is_explained_with_its_labels() -> None:
    told = {
        row[0]: tuple(label.strip("` ") for label in row[2].split(",") if label)
        for row in page("docs/reference/metrics.md").rows()
        if len(row) == 4
    }
    groups = vars(Families(CollectorRegistry())).values()
    families = [family for group in groups for family in vars(group).values()]
    labels = {next(iter(family.describe())).name: tuple(family._labelnames) for family in families}
    labels = {name if name in told else f"{name}_total": each for name, each in labels.items()}
    followed = {
        "understudy_records_total": ("result",),
        "understudy_shadow_skipped_total": ("cause",),
        "understudy_shadow_state": ("task", "candidate"),
        "understudy_shadow_compared_total": ("task", "candidate"),
        "understudy_shadow_shed_total": ("task", "candidate", "cause"),
    }
    parts = Metrics([TASK])
    parts.follow_served(lambda: [Part("tickets", Rate(1, 1, 0.5, 0.0, 1.0, 0, 0.5, 1.0))])
    served = re.findall(r"^(understudy_served_\w+){", parts.render().decode(), re.MULTILINE)
    followed |= dict.fromkeys(served, ("task", "head", "field", "value"))
    assert told == labels | followed


def _errors(kind: type[UnderstudyError]) -> Iterator[type[UnderstudyError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _errors(child)


def test_every_error_code_is_explained_with_its_status() -> None:
    statuses = {}
    for kind in _errors(UnderstudyError):
        if not kind.__module__.startswith("gateway."):
            continue
        of_http = issubclass(kind, RequestError | ServingError | TeacherError)
        status = problems.problem_of(kind("")).status if of_http else kind.exit_status
        statuses[kind.code] = str(status)
    # What has no class of its own: the router's errors, and what nobody raised on purpose.
    statuses |= {"not_found": "404", "method_not_allowed": "405", "internal": "500"}
    rows = page("docs/reference/errors.md").rows()
    assert {row[0]: row[1] for row in rows} == statuses


def _leaves(command: Any, context: Any, name: str = "understudy") -> Iterator[tuple[str, Any]]:
    """Every command that can be run, with its full name."""
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for each in command.list_commands(context):
        yield from _leaves(command.get_command(context, each), context, f"{name} {each}")


def _parameters(command: Any) -> set[str]:
    """Options by their long name, arguments by their name in capitals."""
    params = command.make_context(command.name, [], resilient_parsing=True).command.params
    return {
        next((name for name in param.opts if name.startswith("--")), (param.name or "").upper())
        for param in params
        if param.name != "help"
    }


def test_every_command_is_explained_with_all_its_options() -> None:
    root: Any = typer.main.get_command(app)
    context = root.make_context("understudy", [], resilient_parsing=True)
    text = page("docs/reference/cli.md")
    for name, command in _leaves(root, context):
        rows = [line.split("|")[1].strip(" `") for line in text.section(name).splitlines()
                if line.startswith("| `")]  # fmt: skip
        assert set(rows) == _parameters(command), name


def test_every_http_route_has_its_section(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    text = page("docs/reference/http-api.md").text
    told = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}
    assert told == routes


def test_every_route_and_reason_is_explained() -> None:
    text = page("docs/reference/http-api.md")
    for heading, values in (("Routes", Route), ("Reasons", Reason)):
        told = {line.split("`")[1] for line in text.section(heading).splitlines() if "| `" in line}
        assert told == {str(value) for value in values}


@pytest.mark.parametrize(
    "model",
    [
        schemas.PredictRequest, schemas.Input, schemas.Result, schemas.CostReply,
        schemas.TimingReply, schemas.StatsReply, schemas.TaskStats, schemas.ServingReply,
        schemas.CertificateReply, schemas.Speed, schemas.Escalation, schemas.Comparisons,
        schemas.Amount, schemas.Costs, schemas.BalanceReply, schemas.BudgetReply,
        schemas.RecordCounts, schemas.TaskReply, schemas.TaskLimits,
        schemas.ServedErrorReply, schemas.RateReply,
    ],
)  # fmt: skip
def test_every_key_that_goes_over_the_wire_is_named(model: type[BaseModel]) -> None:
    text = page("docs/reference/http-api.md").text
    missing = [
        name
        for name in model.model_fields
        if f"`{name}`" not in text and f".{name}`" not in text and f".{name}." not in text
    ]
    assert missing == []

"""`understudy shadow`: what candidates have shown on live traffic, and whether one may serve."""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.remote import Admin, KeyFile, reach
from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.errors import DataError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from gateway.settings import TaskSettings
    from gateway.shadow.page import Trialled
    from gateway.shadow.pairing import Sight
    from gateway.store.database import Database

Row = Sequence[Any]

shadow = typer.Typer(
    help="What candidates have shown, and whether one may serve.", no_args_is_help=True
)

_PATH = "/admin/v1/shadow"
_STATUS = {"promote": 0, "hold": 3, "reject": 4}  # exit statuses, for scripts
_HOUR_S = 3600.0
_COUNTS = (
    "compared", "other_than_serving", "with_teacher", "other_than_teacher",
    "serving_other_than_teacher", "escalated", "paired", "paired_with_teacher",
)  # fmt: skip
_TEXT = 90  # characters of a text in a table

_Task = Annotated[str | None, typer.Option(help="Of this task only.")]
_Candidate = Annotated[str | None, typer.Option(help="Of this candidate only.")]


@shadow.command("status")
def status(
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    candidate: _Candidate = None,
    slices: Annotated[bool, typer.Option("--slices", help="Show the slices too.")] = False,
    admin: Admin = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Gates, bounds and disagreements; status 0: promote, 3: hold, 4: reject."""
    replies = list(reach(config, admin, key_file).each("GET", _PATH))
    shown = [
        (url, each["task"], found)
        for url, reply in replies
        for each in reply["tasks"]
        if task in {None, each["task"]}
        for found in each["candidates"]
        if candidate in {None, found["name"]}
    ]
    decision = _overall([found["verdict"]["decision"] for _, _, found in shown])
    if as_json:
        candidates = [{"url": url, "task": name, **found} for url, name, found in shown]
        print_json({"decision": decision, "candidates": candidates})
    else:
        for url, name, found in shown:
            print_tables(*_tables(f"{found['name']} for {name} at {url}", found, slices=slices))
            print(_in_words(found))
        if not shown:
            print("there is no candidate: understudy students add BUNDLE")
    raise typer.Exit(_STATUS[decision])


@shadow.command("report")
def report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    candidate: _Candidate = None,
) -> None:
    """Write one HTML page of the stored comparisons: bounds over time, slices, disagreements."""
    from gateway import settings
    from gateway.cli.aside import one_task
    from gateway.cli.records import opened
    from gateway.shadow.page import page
    from gateway.store import trials

    name, chosen = one_task(settings.load(config), task)
    with opened(config) as engine:
        names = sorted({each.candidate for each in trials.headers(engine, name)})
        wanted = [each for each in names if candidate in {None, each}]
        if not wanted:
            raise UsageError(
                f"nothing is known of {candidate or 'any candidate'} of {name}",
                mend="add one with `understudy students add`, and let requests come",
            )
        found = [_trialled(engine, name, each, chosen.tasks[name]) for each in wanted]
    try:
        out.write_text(page(name, found), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: {error}", mend="name a file that can be written") from error
    print(f"{out}: {len(found)} of the candidates of {name}")


def _trialled(engine: Database, task: str, candidate: str, settings: TaskSettings) -> Trialled:
    """All that a page shows of one candidate."""
    from gateway.shadow.course import courses, footing_of
    from gateway.shadow.page import Trialled as Found
    from gateway.shadow.promotion import spent
    from gateway.shadow.slices import Slices
    from gateway.store import comparisons, trials
    from gateway.succession.candidacy import measure
    from gateway.succession.dossier import place_of, rivals

    def rows() -> Iterator[tuple[float, Sight]]:
        return ((row.at, row.sight) for row in comparisons.each(engine, task, candidate))

    gates, by = settings.shadow.gates, measure(settings)
    terms, headers = gates.terms(), trials.headers(engine, task)
    _, footing = footing_of(rows(), by)
    place = place_of(candidate, footing, terms, headers) if gates.sequence else None
    slices = Slices()
    segments = [each.segment for each in headers if each.candidate == candidate]
    for each in trials.counted(engine, segments):
        if each.slices is not None and each.state["footing"]["policy"] == footing.policy:
            slices.absorb(Slices.restored(each.slices))
    beside = rivals(candidate, headers)
    return Found(
        name=candidate,
        alpha=spent(terms.alpha, rivals=beside, place=place),
        courses=courses(rows, terms=terms, measure=by, rivals=beside, place=place),
        slices=slices,
        worst=tuple(comparisons.worst(engine, task, candidate, limit=50)),
    )


def _overall(decisions: Sequence[str]) -> str:
    """Of several: one that is rejected decides, and else one that is held. None: hold."""
    for decision in ("reject", "hold"):
        if decision in decisions:
            return decision
    return "promote" if decisions else "hold"


def _tables(title: str, found: Mapping[str, Any], *, slices: bool) -> Iterator[Table]:
    verdict = found["verdict"]
    yield table(
        f"{title}: {verdict['decision']} ({verdict['why']})",
        "gate standing limit value lower upper rows rows_needed requests_needed",
        (
            (
                each["gate"], each["standing"], each["limit"], each["value"], each["lower"],
                each["upper"], each["pairs"], each["needed"], each["requests"],
            )
            for each in verdict["gates"]
        ),
    )  # fmt: skip
    columns = " ".join(("of", *_COUNTS))
    yield table("Compared", columns, _counts({"all": found["whole"], **found["heads"]}))
    if slices:
        for kind, values in found["slices"].items():
            yield table(kind, columns, _counts(values))
    skipped = {f"not shown, {cause}": count for cause, count in found["skipped"].items()}
    lapses = {f"no answer, {cause}": count for cause, count in found["lapses"].items()}
    yield table("Not compared, or without an answer", "what requests", (skipped | lapses).items())
    if found["worst"]:
        columns = "score said serving teacher text"
        yield table("Worst disagreements", columns, map(_disagreement, found["worst"]))


def _counts(parts: Mapping[str, Mapping[str, int]]) -> Iterable[Row]:
    for name, counts in parts.items():
        yield name, *(counts[each] for each in _COUNTS)


def _disagreement(found: Mapping[str, Any]) -> Row:
    text = found["text"]
    shown = "(not kept)" if text is None else text if len(text) <= _TEXT else f"{text[:_TEXT]}..."
    return found["score"], found["said"], found["serving"], found["teacher"], shown


def _in_words(found: Mapping[str, Any]) -> str:
    verdict = found["verdict"]
    said = f"{found['name']}: {verdict['decision']}, {verdict['why']}; it is {found['state']}"
    if found["ended"]:
        said += f" ({found['ended']})"
    if found["void"]:
        said += f"; its certificate does not hold ({found['void']}), so that it is not promoted"
    for each in found["anew"]:
        said += f"\nbegun anew because {each['because']}: {', '.join(each['gates'])}"
    left = verdict["remaining_s"]
    return f"{said}; the test runs for another {left / _HOUR_S:.1f} h" if left else said

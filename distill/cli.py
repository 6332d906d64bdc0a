"""The offline commands: init, traces, teach, distill, improve, demo, story.

Heavy libraries load late.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.remote import Admin, KeyFile
from gateway.cli.terminal import Config
from gateway.errors import UsageError

if TYPE_CHECKING:
    from distill.data.traces import Imported
    from distill.pipeline import Sealed
    from gateway.contract.manifest import Evaluation, OperatingPoint

_LABELS_SHOWN = 12  # of a head; a line of a terminal or two

RecipeOption = Annotated[Path, typer.Option("--recipe", help="The recipe to follow.")]


def register(app: typer.Typer) -> None:
    """Add the offline commands to `understudy`."""
    app.command()(init)
    traces = typer.Typer(help="What a team has logged of its teacher.", no_args_is_help=True)
    traces.command("import")(import_traces)
    app.add_typer(traces, name="traces")
    app.command()(teach)
    app.command()(distill)
    app.command()(improve)
    app.command()(demo)
    app.command()(story)


def init(
    name: Annotated[str, typer.Argument(help="The task's name, such as `tickets`.")],
    data: Annotated[
        Path, typer.Option(help="CSV, JSONL or Parquet; or Example lines, which say the labels.")
    ],
    label_column: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN, or COLUMN:flags for `a|b` cells; may be repeated."),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A bundle that labels the texts; its labels are taken.")
    ] = None,
    teacher_url: Annotated[
        str | None, typer.Option(help="A chat model that labels the texts: its server, up to /v1.")
    ] = None,
    teacher_model: Annotated[
        str | None, typer.Option(help="With --teacher-url: the model, as the server calls it.")
    ] = None,
    teacher_key: Annotated[
        str | None, typer.Option(help="The name of its key in UNDERSTUDY_TEACHER_KEYS.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="HEAD=a,b,c or HEAD:flags=a,b: of texts that nobody has labelled."),
    ] = None,
    text_column: Annotated[str, typer.Option()] = "text",
    test: Annotated[Path | None, typer.Option(help="A file of its own for the test.")] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="More texts, which the teacher labels.")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option(help="Rows of one group are never split apart.")
    ] = None,
    field_column: Annotated[
        list[str] | None, typer.Option(help="A column that risk rules may read.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The project's folder.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the two files.")] = False,
) -> None:
    """Write a commented project: recipe.yaml and understudy.yaml."""
    from distill import project  # noqa: PLC0415  keeps `--help` fast

    columns = [project.LabelColumn.parse(each) for each in label_column or ()]
    plan = project.Project(
        task=name,
        data=data,
        label_columns=columns,
        labels=[project.HeadLabels.parse(each) for each in labels or ()],
        teacher=teacher,
        asked=project.ChatModel.named(teacher_url, teacher_model, teacher_key),
        text_column=text_column,
        test=test,
        unlabelled=unlabelled,
        group_column=group_column,
        field_columns=tuple(field_column or ()),
    )
    written = project.create(out, plan, force=force)
    for path in written:
        typer.echo(f"wrote {path}")
    where = "" if out == Path() else f" --recipe {out / 'recipe.yaml'}"
    typer.echo("\nNext: read the two files, then" if len(written) > 1 else "\nNext: read it, then")
    if teacher is None and teacher_url is None and len(written) > 1:
        typer.echo(f"  understudy teach{where}      # only if there is no teacher yet")
    typer.echo(f"  understudy distill{where}")


def teach(recipe: RecipeOption = Path("recipe.yaml")) -> None:
    """Fine-tune a teacher on the gold labels."""
    from distill import pipeline, workspace  # noqa: PLC0415  torch loads here
    from distill import recipe as recipes  # noqa: PLC0415
    from distill.progress import Narrator  # noqa: PLC0415

    plan = recipes.load(recipe)
    sealed = pipeline.teach(plan, workspace.Workspace(recipe.parent), Narrator())
    evaluation = sealed.bundle.manifest.reports.evaluation
    typer.echo(f"teacher: {sealed.bundle.path}")
    if evaluation:
        for head in evaluation.heads:
            typer.echo(f"  {head.head}: accuracy {head.accuracy:.2%}, macro-F1 {head.macro_f1:.3f}")
    typer.echo(f"report:  {sealed.report}")
    typer.echo(f"\nNext:  understudy distill{_where(recipe)}")


def distill(
    recipe: RecipeOption = Path("recipe.yaml"),
    from_handover: Annotated[
        Path | None, typer.Option(help="What `understudy handover` wrote: learnt beside the data.")
    ] = None,
    allow_biased: Annotated[
        bool, typer.Option("--allow-biased", help="Also where no handed over row was audited.")
    ] = False,
) -> None:
    """Distil, export, certify and seal a student."""
    from distill import pipeline, workspace  # noqa: PLC0415  torch loads here
    from distill import recipe as recipes  # noqa: PLC0415
    from distill.progress import Narrator  # noqa: PLC0415

    plan = recipes.load(recipe).handed(from_handover, allow_biased=allow_biased)
    sealed = pipeline.distill(plan, workspace.Workspace(recipe.parent), Narrator())
    for line in _told(sealed):
        typer.echo(line)
    config = "" if recipe.parent == Path() else f" --config {recipe.parent / 'understudy.yaml'}"
    if plan.data.handover is not None:
        typer.echo(f"\nNext:  understudy students add {sealed.bundle.path}")
        return
    typer.echo(f"\nNext:  understudy check{config}, then  understudy serve{config}")


def improve(
    recipe: RecipeOption = Path("recipe.yaml"),
    config: Config = Path("understudy.yaml"),
    task: Annotated[
        str | None, typer.Option(help="The recipe's own; another one is refused.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Examples from that date or time on, UTC; 7d: seven days.")
    ] = None,
    allow_biased: Annotated[
        bool, typer.Option("--allow-biased", help="Also where no handed over row was audited.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="A new round, though the last has not ended.")
    ] = False,
    admin: Admin = None,
    key_file: KeyFile = None,
) -> None:
    """Hand over live traffic, distil the next student of it, check it, add it as a candidate."""
    from distill import improve as flywheel  # noqa: PLC0415  torch loads here
    from distill import recipe as recipes  # noqa: PLC0415
    from distill.progress import Narrator  # noqa: PLC0415

    plan = recipes.load(recipe)
    if task not in {None, plan.task}:
        raise UsageError(
            f"--task {task}: {recipe} is of the task {plan.task}",
            mend="name the recipe of that task with --recipe",
        )
    found = flywheel.improve(
        plan,
        flywheel.Gateways(config, admin, key_file),
        Narrator(),
        since=since,
        allow_biased=allow_biased,
        fresh=fresh,
    )
    for line in _told(found.sealed):
        typer.echo(line)
    name = found.sealed.bundle.name
    typer.echo(f"round {found.number}: {name} is a candidate at {', '.join(found.urls)}")
    typer.echo(f"\nNext:  understudy shadow status --config {config}")


def demo(
    once: Annotated[bool, typer.Option("--once", help="End by itself.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path(
        "understudy-demo"
    ),
    seconds: Annotated[float, typer.Option(help="Live traffic with --once.", min=1.0)] = 30.0,
    rate: Annotated[float, typer.Option(help="Requests a second.", min=1.0)] = 120.0,
    tickets: Annotated[int, typer.Option(help="Tickets in the world.", min=1000)] = 7500,
    seed: Annotated[int, typer.Option(help="Of the ticket world.", min=0)] = 0,
) -> None:
    """The whole loop on synthetic tickets: teach, distil, serve, live traffic."""
    from distill.demo import show  # noqa: PLC0415  torch loads here

    show.run(
        show.Plan(
            folder=folder, tickets=tickets, seed=seed, rate=rate, seconds=seconds if once else None
        ),
        fresh=fresh,
        as_json=as_json,
    )


def story(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Distil all students anew.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the story keeps its files.")] = Path(
        "understudy-story"
    ),
    rate: Annotated[float, typer.Option(help="Requests a second.", min=10.0)] = 150.0,
    port: Annotated[
        int, typer.Option(help="Of its gateway, for a Prometheus of yours; 0: a free one.", min=0)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the ticket world.", min=0)] = 0,
) -> None:
    """Students come, one is promoted, traffic drifts, an alarm rolls back, the next wins back."""
    from distill.story import performance  # noqa: PLC0415  keeps `--help` fast

    performance.run(
        performance.Plan(folder=folder, seed=seed, rate=rate, port=port),
        fresh=fresh,
        as_json=as_json,
    )


def import_traces(
    file: Annotated[Path, typer.Argument(help="JSON lines: texts and what a model said of them.")],
    out: Annotated[Path, typer.Option(help="The Example lines to write.")] = Path("examples.jsonl"),
    text_key: Annotated[str, typer.Option(help="Where the text stands; dots lead inwards.")] = (
        "text"
    ),
    label_key: Annotated[
        str | None, typer.Option(help="Where the label stands, of a single head of that name.")
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="NAME=KEY, or NAME:flags=KEY; may be repeated, one head each."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="NAME=a,b,c: a line that says another label is left out."),
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(help="NAME=KEY: where an object of label and probability stands."),
    ] = None,
    field_key: Annotated[
        list[str] | None, typer.Option(help="A key that risk rules may read; may be repeated.")
    ] = None,
    group_key: Annotated[
        str | None, typer.Option(help="Lines of one group are never split apart.")
    ] = None,
    propensity_key: Annotated[
        str | None, typer.Option(help="With which probability the line was logged.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Logged chats: messages, and a response or choices.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Make Example lines of traces, from which a first student can be distilled."""
    from distill.data import traces  # noqa: PLC0415  keeps `--help` fast

    shape = traces.Shape(
        heads=traces.heads(head or (), labels or (), label_key=label_key, chat=chat),
        text=text_key,
        chat=chat,
        scores=dict(traces.pair(each, "--scores") for each in scores or ()),
        fields=tuple(field_key or ()),
        group=group_key,
        propensity=propensity_key,
    )
    found = traces.convert(file, out, shape)
    if as_json:
        typer.echo(json.dumps({"out": str(out)} | asdict(found), ensure_ascii=False))
        return
    for line in _imported(found):
        typer.echo(line)
    typer.echo(f"\nwrote {out}\nNext:  understudy init NAME --data {out}")


def _told(sealed: Sealed) -> Iterator[str]:
    """What came of a distillation, a line each."""
    manifest = sealed.bundle.manifest
    yield f"student: {sealed.bundle.path}  ({sealed.bundle.size / 1e6:.1f} MB)"
    evaluation, latency = manifest.reports.evaluation, manifest.reports.latency
    for line in _measured(evaluation) if evaluation else ():
        yield f"  {line}"
    for point in manifest.operating_points:
        yield f"  certificate: {_promise(point)}"
    if latency and latency.teacher_p50_ms:
        yield (
            f"  one text: student {latency.p50_ms:.2f} ms, teacher {latency.teacher_p50_ms:.2f} ms "
            f"({latency.teacher_p50_ms / latency.p50_ms:.1f}x)"
        )
    yield f"report:  {sealed.report}"


def _imported(found: Imported) -> Iterator[str]:
    """What came of an import, a line each."""
    from distill.data.traces import told  # noqa: PLC0415  keeps `--help` fast

    yield f"{found.lines:,} lines, {found.written:,} examples"
    if found.duplicates:
        yield f"  {found.duplicates:,} of a text that is there already"
    if found.contradictions:
        yield (
            f"  {found.contradictions:,} texts had several answers: the commonest stands, and "
            "the shares are its scores"
        )
    if found.unusable:
        yield f"  {len(found.unusable):,} could not be used: {told(found.unusable)}"
    for head, counts in found.labels.items():
        shown = [f"{label} {count:,}" for label, count in list(counts.items())[:_LABELS_SHOWN]]
        rest = len(counts) - len(shown)
        yield f"  {head}: {', '.join(shown)}" + (f" and {rest} more labels" if rest else "")


def _measured(evaluation: Evaluation) -> Iterator[str]:
    """What the test split says, a line each: of a teacher's labels never as accuracy."""
    told = f"at {evaluation.escalation:.1%} escalated"
    if evaluation.labels == "teacher":
        for head in evaluation.heads:
            yield f"{head.head}: agreement with the teacher {head.accuracy:.2%}, ECE {head.ece:.3f}"
        yield (
            f"all heads: agreement of the student {evaluation.accuracy:.2%}, of the system "
            f"{evaluation.system_accuracy:.2%} {told}"
        )
        return
    for head in evaluation.heads:
        yield (
            f"{head.head}: accuracy {head.accuracy:.2%} (teacher {_share(head.teacher_accuracy)}), "
            f"agreement {_share(head.agreement)}, ECE {head.ece:.3f}"
        )
    yield (
        f"all heads: student {evaluation.accuracy:.2%}, teacher "
        f"{_share(evaluation.teacher_accuracy)}, system {evaluation.system_accuracy:.2%} {told}"
    )


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"


def _promise(point: OperatingPoint) -> str:
    found = point.certificate
    if found is None:
        return "no threshold could be certified; every request will go to the teacher"
    return (
        f"P(answered by the student and wrong) <= {found.alpha:.1%} with {1 - found.delta:.0%} "
        f"confidence against {found.labels} labels ({found.undetected_errors} of {found.rows:,} "
        f"rows); it answers {point.coverage:.1%} itself"
    )


def _where(recipe: Path) -> str:
    return "" if recipe == Path("recipe.yaml") else f" --recipe {recipe}"

"""The offline commands: init, teach, distill, demo. Heavy libraries load when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.contract.manifest import OperatingPoint

RecipeOption = Annotated[Path, typer.Option("--recipe", help="The recipe to follow.")]


def register(app: typer.Typer) -> None:
    """Add the offline commands to `understudy`."""
    app.command()(init)
    app.command()(teach)
    app.command()(distill)
    app.command()(demo)


def init(
    name: Annotated[str, typer.Argument(help="The task's name, such as `tickets`.")],
    data: Annotated[Path, typer.Option(help="CSV, JSONL or Parquet.")],
    label_column: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN, or COLUMN:flags for `a|b` cells; may be repeated."),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A bundle that labels the texts; its labels are taken.")
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
        teacher=teacher,
        text_column=text_column,
        test=test,
        unlabelled=unlabelled,
        group_column=group_column,
        field_columns=tuple(field_column or ()),
    )
    for path in project.create(out, plan, force=force):
        typer.echo(f"wrote {path}")
    where = "" if out == Path() else f" --recipe {out / 'recipe.yaml'}"
    typer.echo("\nNext: read the two files, then")
    if teacher is None:
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


def distill(recipe: RecipeOption = Path("recipe.yaml")) -> None:
    """Distil, export, certify and seal a student."""
    from distill import pipeline, workspace  # noqa: PLC0415  torch loads here
    from distill import recipe as recipes  # noqa: PLC0415
    from distill.progress import Narrator  # noqa: PLC0415

    plan = recipes.load(recipe)
    sealed = pipeline.distill(plan, workspace.Workspace(recipe.parent), Narrator())
    manifest = sealed.bundle.manifest
    typer.echo(f"student: {sealed.bundle.path}  ({sealed.bundle.size / 1e6:.1f} MB)")
    evaluation, latency = manifest.reports.evaluation, manifest.reports.latency
    if evaluation:
        for head in evaluation.heads:
            typer.echo(
                f"  {head.head}: accuracy {head.accuracy:.2%} (teacher "
                f"{head.teacher_accuracy:.2%}), agreement {head.agreement:.2%}, ECE {head.ece:.3f}"
            )
        typer.echo(
            f"  all heads: student {evaluation.accuracy:.2%}, teacher "
            f"{evaluation.teacher_accuracy:.2%}, system {evaluation.system_accuracy:.2%} "
            f"at {evaluation.escalation:.1%} escalated"
        )
    for point in manifest.operating_points:
        typer.echo(f"  certificate: {_promise(point)}")
    if latency and latency.teacher_p50_ms:
        typer.echo(
            f"  one text: student {latency.p50_ms:.2f} ms, teacher {latency.teacher_p50_ms:.2f} ms "
            f"({latency.teacher_p50_ms / latency.p50_ms:.1f}x)"
        )
    typer.echo(f"report:  {sealed.report}")
    config = "" if recipe.parent == Path() else f" --config {recipe.parent / 'understudy.yaml'}"
    typer.echo(f"\nNext:  understudy check{config}, then  understudy serve{config}")


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

"""`understudy bundle`: what a bundle says of itself, and whether it is whole."""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.terminal import AsJson, complain, flat, print_json, print_tables, table
from gateway.errors import BundleError

if TYPE_CHECKING:
    from rich.table import Table

    from gateway.contract.bundle import Bundle

bundles = typer.Typer(help="Look at bundles.", no_args_is_help=True)


@bundles.command("show")
def show(path: Annotated[Path, typer.Argument()], as_json: AsJson = False) -> None:
    """What a bundle is, how good, how fast, and where it comes from."""
    from gateway.contract.bundle import open_bundle

    bundle = open_bundle(path)
    if as_json:
        about = {"id": bundle.id, "name": bundle.name, "size": bundle.size}
        print_json(about | {"manifest": bundle.manifest.model_dump(mode="json")})
        return
    print_tables(*_shown(bundle))
    print(f"next: understudy bundle verify {path}")


@bundles.command("verify")
def verify(paths: Annotated[list[Path], typer.Argument()]) -> None:
    """Hash every file, and compare the model's numbers on this host with the bundle's own."""
    from gateway.contract.bundle import open_bundle
    from gateway.students.student import Student

    failed: list[BundleError] = []
    for path in paths:
        try:
            bundle = open_bundle(path)
            Student(bundle)
        except BundleError as error:
            failed.append(error)
            complain(error)
        else:
            vectors = len(bundle.manifest.golden.vectors)
            files = len(bundle.manifest.files)
            print(f"ok  {bundle.name}  {files} files, {vectors} golden vectors")
    if failed:
        raise typer.Exit(failed[0].exit_status)


def _shown(bundle: Bundle) -> Iterable[Table]:
    from gateway.api.schemas import in_words

    manifest = bundle.manifest
    heads = {head.name: f"{head.kind}: {', '.join(head.labels)}" for head in manifest.task.heads}
    graph = manifest.graph.model_dump(mode="json")
    size = {"id": bundle.id, "role": manifest.role, "bytes": bundle.size}
    yield table(f"Bundle {bundle.name}", "what value", flat(size | {"heads": heads} | graph))
    yield table(
        "Operating points",
        "name threshold coverage certificate",
        (
            (
                point.name,
                point.threshold,
                f"{point.coverage:.1%}",
                in_words(point.certificate) if point.certificate else "none",
            )
            for point in manifest.operating_points
        ),
    )
    reports = manifest.reports
    if quality := reports.evaluation:
        by_head = {each.head: each.model_dump(exclude={"head"}) for each in quality.heads}
        whole = quality.model_dump(exclude={"heads"})
        yield table("Quality on the test split", "what value", flat(whole | by_head))
    if reports.parity:
        yield table("Parity with the trained network", "what value", flat(dict(reports.parity)))
    if reports.trials:
        columns = ("recipe", "microseconds", "size", "label_flips", "passed", "kept", "note")
        rows = ([getattr(trial, column) for column in columns] for trial in reports.trials)
        yield table("Trials", " ".join(columns), rows)
    if reports.latency:
        yield table("Latency of one text", "what value", flat(dict(reports.latency)))
    yield table("Provenance", "what value", flat(manifest.provenance.model_dump()))

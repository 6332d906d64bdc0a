"""`understudy tune`: how the students of a settings file are best run on this host."""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.cli.texts import lines
from gateway.errors import SettingsError


def tune(
    config: Config = Path("understudy.yaml"),
    texts: Annotated[
        Path | None, typer.Option(help="One text a line, like those that will be served.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each way that is tried.")] = 3.0,
    as_json: AsJson = False,
) -> None:
    """Measure how each student is best run here, and keep the choice for `serve`."""
    import asyncio
    import functools

    from gateway import settings as reader
    from gateway.assembly import registry_of
    from gateway.contract.bundle import open_bundle
    from gateway.students import tuning
    from gateway.succession.seat import first_bundle
    from gateway.succession.students import start_workers

    settings = reader.load(config)
    given = lines(texts) if texts else []
    found: dict[str, dict[str, Any]] = {}
    for name, task in settings.tasks.items():
        folder = first_bundle(task, registry_of(name, settings))
        if folder is None:
            continue
        bundle = open_bundle(folder)
        samples = given or [vector.text for vector in bundle.manifest.golden.vectors]
        start = functools.partial(start_workers, name, task)
        choice, trials = asyncio.run(tuning.measure(bundle, samples, start, seconds=seconds))
        tuning.save(task.student.tuning, bundle, choice)
        found[name] = {"choice": asdict(choice), "trials": [asdict(trial) for trial in trials]}
    if not found:
        raise SettingsError(
            "no task of these settings has a student, so that there is nothing to tune",
            mend="add one and let it serve, or name a bundle under tasks.<name>.student.bundle",
        )
    if as_json:
        print_json(found)
        return
    for name, each in found.items():
        rows = (trial.values() for trial in each["trials"])
        print_tables(
            table(f"Task {name}", "workers threads texts/s", map(list, rows)),
            table("Chosen", "key value", each["choice"].items()),
        )
    kept = sorted({str(task.student.tuning) for task in settings.tasks.values()})
    print(f"kept in {', '.join(kept)}: read at the next start, swap or reload of the student")
    print(f"next: understudy serve --config {config}")

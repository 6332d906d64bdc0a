"""`understudy export` and `understudy profile`: what a person asks for, and what is said to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.contract.bundle import open_bundle
from gateway.contract.encoding import Encoding
from gateway.errors import DataError, UsageError

Precision = Literal["fp32", "int8"]
Role = Literal["student", "teacher"]

_FEWEST_TEXTS = 100  # below this the share of flips says nothing


def register(app: typer.Typer) -> None:
    """Add `export` and `profile` to `understudy`."""
    app.command()(export)
    app.command()(profile)


def export(
    *,
    model: Annotated[Path, typer.Option(help="Folder with config.json, weights, tokenizer.json.")],
    out: Annotated[Path, typer.Option(help="Folder in which the bundle is made.")],
    task: Annotated[str | None, typer.Option(help="The task's name; else the folder's.")] = None,
    head: Annotated[str, typer.Option(help="The name of its one decision.")] = "label",
    role: Annotated[Role, typer.Option(help="How it will be served.")] = "student",
    precision: Annotated[Precision, typer.Option(help="int8 is smaller and faster.")] = "fp32",
    texts: Annotated[Path | None, typer.Option(help="One text a line; int8 needs them.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longer texts are cut.", min=8)] = None,
) -> None:
    """Make a bundle of a local Hugging Face text classifier."""
    lines = _read_texts(texts)
    if precision == "int8" and len(lines) < _FEWEST_TEXTS:
        raise UsageError(
            f"--precision int8 needs {_FEWEST_TEXTS} texts or more, got {len(lines)}",
            mend="give real texts, one a line, with --texts FILE",
        )
    from exporters import classifier  # noqa: PLC0415  torch loads here

    source = classifier.read(model)
    order = classifier.Order(
        task=source.task(task, head),
        limits=source.limits(max_tokens),
        role=role,
        precision=precision,
        texts=lines,
    )
    bundle = classifier.bundle(source, order, out, progress=typer.echo)
    typer.echo(f"{role}: {bundle.path}")
    typer.echo(f"  {bundle.size / 1e6:.1f} MB, {bundle.manifest.graph.recipe}")
    typer.echo("  its scores are not calibrated, and no threshold is certified")
    if role == "teacher":
        typer.echo(
            f"\nNext:  understudy init NAME --data TEXTS --teacher {bundle.path}, then  "
            "understudy distill"
        )
        return
    typer.echo(
        "\nNext: make it the teacher of a certified student: export it with --role teacher. "
        "Served as it is,\nwithout a certificate, every request is escalated to the teacher unless "
        "policy.threshold is set\nin understudy.yaml."
    )


def profile(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    *,
    texts: Annotated[Path | None, typer.Option(help="One text a line; else its own.")] = None,
) -> None:
    """Where the time of one run of a bundle's graph goes, by kind of node."""
    from exporters.profile import profile as measure  # noqa: PLC0415  torch loads here

    opened = open_bundle(bundle)
    encoding = Encoding(opened.tokenizer, opened.manifest.limits)
    golden = [vector.text for vector in opened.manifest.golden.vectors]
    rows = [each.ids for each in encoding.encode(_read_texts(texts) or golden)]
    found = measure(opened.model, rows)
    total = sum(kind.microseconds for kind in found.kinds)
    typer.echo(f"{'node':<24}{'count':>7}{'microseconds':>14}{'share':>8}")
    for kind in found.kinds:
        share = kind.microseconds / total
        typer.echo(f"{kind.name:<24}{kind.nodes:>7}{kind.microseconds:>14.0f}{share:>8.1%}")
    typer.echo(
        f"\n{len(rows)} texts of {found.tokens:.0f} tokens (median): one run takes "
        f"{found.microseconds:.0f} microseconds,\nand {total:.0f} of its nodes' own while the "
        "profiler looks on, which costs time too"
    )


def _read_texts(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"--texts {path}: {error}", mend="name a UTF-8 file with one text a line"
        ) from error
    return tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))

"""`understudy policy`: explain one decision, replay traffic, certify the whole.

The student that serves is opened in this process; no server is asked, and none is disturbed.
"""
# ruff: noqa: PLC0415  imports stand inside the commands: --help then comes in a fraction of a second

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.aside import one_task, open_aside
from gateway.cli.terminal import AsJson, Config, print_json, print_tables, table
from gateway.errors import DataError, SettingsError, StageFailed, UsageError

if TYPE_CHECKING:
    from gateway.assembly import Gateway
    from gateway.cli.frontier import Frontier
    from gateway.contract.certificate import PolicyCertificate
    from gateway.contract.labelled import Labelled
    from gateway.routing.cascade import Cascade
    from gateway.routing.policy import EscalationPolicy
    from gateway.routing.replay import Outcome, Proof
    from gateway.settings import PolicySettings, Settings
    from gateway.students.student import Student
    from gateway.types import FieldValue, Prediction

_SHOWN = 5  # labels of a head, the most probable ones
_THOUSAND = 1000  # requests
_MICRO = 1_000_000  # micro-USD in a USD
_TEXTS = 256  # that the student reads at once

_Task = Annotated[str | None, typer.Option("--task", help="Which one, where there are several.")]
_Data = Annotated[Path, typer.Option(help="JSON lines: text, labels, fields; or records.")]
_Delta = Annotated[float, typer.Option(min=1e-6, max=0.5, help="1 - delta is the confidence.")]

policy = typer.Typer(
    help="Explain, replay and certify the decision to ask the teacher.", no_args_is_help=True
)


@policy.command("explain")
def explain(
    text: Annotated[str, typer.Argument(help="What a client would send.")],
    config: Config = Path("understudy.yaml"),
    field: Annotated[
        list[str] | None, typer.Option("--field", help="name=value; may stand several times.")
    ] = None,
    task: _Task = None,
    as_json: AsJson = False,
) -> None:
    """The whole decision on one text: what the student says, every gate, who would answer."""
    import asyncio

    from gateway.settings import load

    fields = dict(map(_field, field or ()))
    name, settings = one_task(load(config), task)

    async def look() -> dict[str, Any]:
        async with open_aside(settings) as gateway:
            return _explained(gateway.cascade(name), text, fields)

    found = asyncio.run(look())
    call = settings.tasks[name].prices.prices().teacher_call
    found["call_usd"] = None if call is None else call / _MICRO
    if as_json:
        print_json(found)
    else:
        _show_explained(found)


@policy.command("simulate")
def simulate(
    data: _Data,
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="In place of the one in use.")
    ] = None,
    out_of_domain: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="The least familiarity, in place of the one in use."),
    ] = None,
    policy_file: Annotated[
        Path | None,
        typer.Option("--policy", help="YAML with another policy, as it stands under the task."),
    ] = None,
    delta: _Delta = 0.05,
    plot: Annotated[Path | None, typer.Option(help="Draw the frontier into this SVG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay traffic under the policy, or another: escalation, undetected error, cost."""
    import asyncio

    from gateway.routing import replay
    from gateway.settings import load, read_policy

    name, settings = one_task(load(config), task)
    serving = settings.tasks[name].policy
    chosen = serving if policy_file is None else read_policy(policy_file)
    if threshold is not None:
        chosen = chosen.model_copy(update={"threshold": threshold})
    if out_of_domain is not None:
        chosen = chosen.model_copy(update={"out_of_domain": out_of_domain})
    if chosen is not serving:
        settings = _with(settings, name, _as_promised(chosen, serving))

    async def run() -> tuple[EscalationPolicy, Outcome]:
        async with open_aside(settings) as gateway:
            cascade, rows, said = _read(gateway, name, data)
            tried = cascade.rung.policy
            return tried, replay.outcome(tried, rows, said, delta=delta, now=time.time())

    tried, found = asyncio.run(run())
    call = settings.tasks[name].prices.prices().teacher_call
    usd = None if call is None else call * _THOUSAND / _MICRO  # for 1,000 requests, all escalated
    shown = _simulated(tried, found, usd=usd, delta=delta)
    drawn = _frontier(found, usd) if found.labelled and not found.chosen else None
    if plot is not None:
        _draw(plot, drawn)
    if as_json:
        print_json(shown)
    else:
        _show_simulated(shown, drawn)


@policy.command("certify")
def certify(
    data: _Data,
    labels: Annotated[str, typer.Option(help="Whose labels they are: gold or teacher.")],
    out: Annotated[Path, typer.Option(help="The certificate; an older one is replaced.")],
    config: Config = Path("understudy.yaml"),
    task: _Task = None,
    alpha: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="The most undetected error.")
    ] = 0.02,
    alpha_critical: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="The most critical requests missed.")
    ] = 0.02,
    alpha_severity: Annotated[
        float | None, typer.Option(min=1e-9, help="The largest mean loss, in units of loss.")
    ] = None,
    delta: _Delta = 0.05,
    valid_days: Annotated[
        float, typer.Option(min=0.01, max=3650.0, help="Then it is void.")
    ] = 90.0,
    as_json: AsJson = False,
) -> None:
    """Prove what the whole policy keeps, on fresh labels, and find its thresholds."""
    import asyncio

    from gateway.contract import certificate
    from gateway.routing.replay import Targets
    from gateway.settings import load

    if labels not in {"gold", "teacher"}:
        raise UsageError(f"--labels {labels!r}: no such one", mend="name gold or teacher")
    name, settings = one_task(load(config), task)
    settings = _with(settings, name, settings.tasks[name].policy)
    chosen = settings.tasks[name].policy
    if alpha_severity is not None and chosen.severity is None:
        raise UsageError(
            "--alpha-severity: nothing says what a mistake costs",
            mend=f"write tasks.{name}.policy.severity",
        )

    async def run() -> PolicyCertificate:
        async with open_aside(settings) as gateway:
            cascade, rows, said = _read(gateway, name, data)
            _check_fresh(data, cascade)
            costs = cascade.rung.policy.severity
            targets = Targets(
                alpha=alpha,
                delta=delta,
                critical=alpha_critical if chosen.critical else None,
                severity=alpha_severity,
                largest=costs.largest or 1.0 if costs else 1.0,
            )
            proof = _proven(chosen, cascade.rung.policy, rows, said, targets)
            return _issued(cascade, chosen, proof, targets, labels=labels, valid_days=valid_days)

    issued = asyncio.run(run())
    certificate.write(out, issued)
    if as_json:
        print_json(issued.model_dump(mode="json"))
        return
    _show_certificate(issued, out)


def _explained(cascade: Cascade, text: str, fields: Mapping[str, FieldValue]) -> dict[str, Any]:
    """One decision with everything that it was made from."""
    from gateway.types import Instance

    student, tried = cascade.rung.student.student, cascade.rung.policy
    instance, now = Instance(text, fields), time.time()
    said = student.predict([text])[0] if student else None
    decision = tried.decide(instance, said, now=now)
    losses = tried.severity.losses(said) if tried.severity and said else ()
    return {
        "student": cascade.rung.name,
        "teacher": cascade.teacher.name,
        "heads": [
            {
                "head": head.head,
                "labels": head.labels,
                "confidence": head.confidence,
                "probabilities": dict(
                    zip(asked.labels, map(float, head.probabilities), strict=True)
                ),
            }
            for head, asked in (zip(said.heads, said.asked, strict=True) if said else ())
        ],
        "score": said.score if said else None,
        "threshold": tried.threshold,
        "familiarity": said.familiarity if said else None,
        "min_familiarity": tried.min_familiarity,
        "gates": [
            {
                "gate": gate.reason.value,
                "detail": gate.detail,
                "value": gate.value,
                "limit": gate.limit,
                "holds": gate.holds,
            }
            for gate in tried.gates(instance, said, now=now)
        ],
        "losses": [
            {"head": loss.head, "student": loss.student, "teacher": loss.teacher} for loss in losses
        ],
        "route": "teacher" if decision.escalate else "student",
        "reason": decision.reason.value,
        "reasons": [reason.value for reason in decision.reasons],
        "detail": decision.detail,
    }


def _show_explained(found: Mapping[str, Any]) -> None:
    heads = [
        (each["head"], each["labels"], each["confidence"], _most(each["probabilities"]))
        for each in found["heads"]
    ]
    gates = (list(each.values()) for each in found["gates"])
    tables = [
        table(f"Student {found['student']}", "head says confidence probabilities", heads),
        table("Gates, in their order", "gate detail value limit holds", gates),
    ]
    if found["losses"]:
        losses = (list(each.values()) for each in found["losses"])
        tables.append(table("Expected losses, in units of loss", "head student teacher", losses))
    print_tables(*tables)
    threshold, call = found["threshold"], found["call_usd"]
    print(f"score {_known(found['score'])}, threshold {_known(threshold)}; a call of the teacher "
          f"costs {'an unknown price' if call is None else f'{call:.6g} USD'}")  # fmt: skip
    print(
        "familiarity not known: the student's bundle has no domain"
        if found["familiarity"] is None
        else f"familiarity {found['familiarity']:.4g}, at least {_known(found['min_familiarity'])}"
    )
    detail = f" ({found['detail']})" if found["detail"] else ""
    who = found["teacher"] if found["route"] == "teacher" else found["student"]
    print(f"{found['route']} answers, {who}: {', '.join(found['reasons'])}{detail}")


def _read(
    gateway: Gateway, name: str, data: Path
) -> tuple[Cascade, list[Labelled], list[Prediction]]:
    """The task's cascade, the rows, and what its student says of each."""
    from gateway.contract import labelled

    cascade = gateway.cascade(name)
    student = _student(cascade)
    rows = labelled.read(data, student.task)
    said: list[Prediction] = []
    for start in range(0, len(rows), _TEXTS):
        said += student.predict([row.text for row in rows[start : start + _TEXTS]])
    return cascade, rows, said


def _student(cascade: Cascade) -> Student:
    """The student whose answers are replayed. Raises SettingsError."""
    student = cascade.rung.student.student
    if student is None:
        raise SettingsError(
            f"{cascade.task} has no student, whose answers could be replayed: its teacher answers "
            "everything",
            mend=f"name a bundle under tasks.{cascade.task}.student.bundle; `understudy handover` "
            "is the way to the first",
        )
    return student


def _simulated(
    tried: EscalationPolicy, found: Outcome, *, usd: float | None, delta: float
) -> dict[str, Any]:
    share = found.escalated / found.rows
    labelled = found.labelled
    known = labelled and not found.chosen
    return {
        "rows": found.rows,
        "threshold": tried.threshold,
        "min_familiarity": tried.min_familiarity,
        "escalation": share,
        "by_reason": {
            reason.value: count / found.rows for reason, count in sorted(found.reasons.items())
        },
        "labelled": labelled,
        "undetected_errors": found.undetected,
        "undetected_error": found.undetected / labelled if known else None,
        "upper_bound": found.bound,
        "delta": delta,
        "usd_per_1000": None if usd is None else share * usd,
        "chosen_rows": found.chosen,
        "frontier": [
            {
                "threshold": point.threshold,
                "escalation": point.escalation,
                "undetected_error": point.undetected,
                "usd_per_1000": None if usd is None else point.escalation * usd,
            }
            for point in found.frontier
        ],
        "out_of_domain": [
            {
                "min_familiarity": bar.least,
                "strange": bar.strange,
                "escalation": bar.escalation,
                "undetected_error": bar.undetected,
            }
            for bar in found.bars
        ],
    }


def _show_simulated(shown: Mapping[str, Any], drawn: Frontier | None) -> None:
    from gateway.api.schemas import percent
    from gateway.cli import frontier

    bound = "-" if shown["upper_bound"] is None else f"{shown['upper_bound']:.2%}"
    error = "-" if shown["undetected_error"] is None else f"{shown['undetected_error']:.2%}"
    sure = percent(1 - shown["delta"])
    rows = [
        ("rows", shown["rows"]),
        ("threshold", shown["threshold"]),
        ("least familiarity", shown["min_familiarity"]),
        ("escalation", f"{shown['escalation']:.2%}"),
        *((f"  {reason}", f"{share:.2%}") for reason, share in shown["by_reason"].items()),
        ("labelled rows", shown["labelled"]),
        ("undetected error", f"{error} ({shown['undetected_errors']})"),
        (f"at most, with {sure} confidence", bound),
        ("USD for the teacher, 1,000 requests", shown["usd_per_1000"]),
    ]
    tables = [table("Under this policy", "what value", rows)]
    if bars := shown["out_of_domain"]:
        columns = "at_least strange escalation undetected_error"
        tables.append(table("With another least familiarity", columns, map(_percents, bars)))
    print_tables(*tables)
    if shown["chosen_rows"]:
        print(
            "note: rows have labels where they were escalated; the errors of what the student "
            "answered are not among them, so that their share is not known"
        )
    if drawn is not None:
        print(frontier.terminal(drawn))


def _percents(bar: Mapping[str, float | None]) -> Sequence[Any]:
    """The limit as it is set, and the shares that it leads to."""
    least, *shares = bar.values()
    return (least, *("-" if share is None else f"{share:.2%}" for share in shares))


def _frontier(found: Outcome, usd: float | None) -> Frontier:
    """Cost against the share of requests that are not answered wrong by the student."""
    from gateway.cli.frontier import Frontier

    unit = 100.0 if usd is None else usd
    x = "escalated, % of requests" if usd is None else "USD for the teacher, 1,000 requests"
    return Frontier(
        points=[
            (point.escalation * unit, 1.0 - (point.undetected or 0.0))
            for point in reversed(found.frontier)
        ],
        here=(found.escalated / found.rows * unit, 1.0 - found.undetected / found.labelled),
        x=x,
        y="requests without an undetected error",
    )


def _draw(path: Path, drawn: Frontier | None) -> None:
    from gateway.cli import frontier

    if drawn is None:
        raise DataError(
            "--plot: no row is labelled, or some only because they were escalated, so that there "
            "is no quality to draw",
            mend="give a random sample with labels",
        )
    try:
        path.write_text(frontier.svg(drawn), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"--plot {path}: {error.strerror}", mend="name a file that this user may write"
        ) from error


def _check_fresh(data: Path, cascade: Cascade) -> None:
    """Raise DataError for a file that the student was made from."""
    import hashlib

    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    student = _student(cascade).bundle
    if digest in student.manifest.provenance.data.values():
        raise DataError(
            f"{data} is a file that {student.name} was made from, and certifies nothing",
            mend="label a fresh random sample of the traffic",
        )


def _proven(
    chosen: PolicySettings,
    tried: EscalationPolicy,
    rows: Sequence[Labelled],
    said: Sequence[Prediction],
    targets: Any,
) -> Proof:
    """The loosest thresholds that keep the targets. Raises DataError and StageFailed."""
    from gateway.routing import replay

    if any(row.chosen or row.truth is None for row in rows):
        raise DataError(
            "rows that are not labelled, or only because they were escalated, certify nothing",
            mend="label a random sample of the traffic, and give all of it",
        )
    if len({row.propensity for row in rows}) > 1:
        raise DataError(
            "the rows were not all drawn with the same propensity",
            mend="give a random sample in which each request had the same chance",
        )
    seen = replay.replay(tried, rows, said)
    fixed = chosen.critical.threshold if chosen.critical else 1.0
    if chosen.threshold is not None and fixed is not None:
        sequence, test = replay.steps(seen, threshold=chosen.threshold, critical=fixed), seen
    else:
        first, test = replay.parted(seen)
        sequence = replay.steps(first, threshold=chosen.threshold, critical=fixed)
    proof = replay.prove(test, sequence, targets)
    if proof is None:
        raise StageFailed(
            f"no threshold keeps what is asked on {len(test)} rows",
            mend="label more rows, ask for a larger alpha, or make a better student",
        )
    return proof


def _issued(
    cascade: Cascade,
    chosen: PolicySettings,
    proof: Proof,
    targets: Any,
    *,
    labels: str,
    valid_days: float,
) -> PolicyCertificate:
    from datetime import UTC, datetime

    from gateway.contract.certificate import PolicyCertificate
    from gateway.succession.policies import fingerprint

    tried = cascade.rung.policy
    return PolicyCertificate(
        task=cascade.task,
        student=_student(cascade).bundle.id,
        teacher=cascade.teacher.name,
        policy=fingerprint(chosen, tried.severity, tried.min_familiarity),
        labels="gold" if labels == "gold" else "teacher",
        alpha=targets.alpha,
        delta=targets.delta,
        rows=proof.rows,
        undetected_errors=proof.undetected,
        upper_bound=proof.bound,
        escalation=proof.escalation,
        threshold=proof.step.threshold,
        critical=proof.critical,
        severity=proof.severity,
        issued_at=datetime.now(UTC),
        valid_days=valid_days,
    )


def _show_certificate(issued: PolicyCertificate, out: Path) -> None:
    from gateway.api.schemas import in_words
    from gateway.cli.terminal import flat

    print_tables(table("Certificate", "key value", flat(issued.model_dump(mode="json"))))
    print(in_words(issued))
    print(f"written to {out}, valid until {issued.expires_at:%Y-%m-%d %H:%M} UTC")
    print(f"next: tasks.{issued.task}.policy.certificate: {out}, and understudy reload")


def _as_promised(chosen: PolicySettings, serving: PolicySettings) -> PolicySettings:
    """A policy to be tried: without a certificate, critical labels keep their promised threshold.

    It is that of its own certificate, else that of the policy in use where the labels are the same.
    """
    from gateway.contract import certificate

    critical = chosen.critical
    if critical is None or critical.threshold is not None:
        return chosen
    same = serving.critical is not None and serving.critical.labels == critical.labels
    path = chosen.certificate or (serving.certificate if same else None)
    found = certificate.read(path) if path is not None else None
    if found is None or found.critical is None:
        return chosen
    kept = critical.model_copy(update={"threshold": found.critical.threshold})
    return chosen.model_copy(update={"critical": kept})


def _with(settings: Settings, name: str, chosen: PolicySettings) -> Settings:
    """The same settings with another policy, whose certificate is not asked for."""
    bare = chosen.model_copy(update={"certificate": None})
    task = settings.tasks[name].model_copy(update={"policy": bare})
    return settings.model_copy(update={"tasks": {**settings.tasks, name: task}})


def _field(given: str) -> tuple[str, FieldValue]:
    """name=value, where numbers, true, false and null are what JSON calls so."""
    import orjson

    name, equals, value = given.partition("=")
    if not (name and equals):
        raise UsageError(f"--field {given!r}: not name=value", mend="write --field amount=1200")
    try:
        read = orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value
    return name, value if isinstance(read, list | dict) else read


def _most(probabilities: Mapping[str, float]) -> str:
    """The most probable labels."""
    ranked = sorted(probabilities.items(), key=lambda pair: -pair[1])
    more = f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
    return ", ".join(f"{label} {share:.3g}" for label, share in ranked[:_SHOWN]) + more


def _known(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"

"""Who is compared, who is not and why, and what is known of them over processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gateway import settings
from gateway.assembly import Gateway, open_gateway
from gateway.candidacy import Candidacy
from gateway.errors import BundleMissing, SettingsError
from gateway.reload import reload
from gateway.shadow.promotion import Decision, Gate, Terms, Trial, Verdict
from gateway.shadow.slices import Slices
from gateway.store import comparisons
from gateway.store.comparisons import Counted
from gateway.types import Instance
from gateway.types import Terms as Ask
from tests.factories import CONFIDENT, TASK, settings_file, tiny_bundle

GATES = {"disagreement": 0.2, "serving": None, "escalation": 0.2, "latency": None,
         "minimum_s": 0.0, "cycle_s": 0.0}  # fmt: skip
SOON = 60.0  # seconds; far beyond what any wait here takes


async def until(happened: Callable[[], bool]) -> None:
    """Let the event loop go on until then."""
    async with asyncio.timeout(SOON):
        while not happened():  # noqa: ASYNC110  what happens is a process's work
            await asyncio.sleep(0.01)


def with_gateway(path: Path, work: Callable[[Gateway, Candidacy], Awaitable[None]]) -> None:
    async def play() -> None:
        async with open_gateway(settings.load(path), read=lambda: settings.load(path)) as gateway:
            await work(gateway, gateway.candidacies[TASK.name])

    asyncio.run(play())


def test_who_may_not_be_compared_is_told_why(tmp_path: Path) -> None:
    shadow: dict[str, object] = {"share": 1.0, "candidates": 1, "gates": GATES}

    def write(**changes: object) -> Path:
        return settings_file(tmp_path, tickets={"shadow": shadow | changes})

    path = write(share=0.0)
    bundles = [tiny_bundle(tmp_path / "new", seed=seed) for seed in (1, 2)]

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        held = gateway.successions[TASK.name]
        candidacy._every = 0.05
        for each in bundles:
            held.registry.keep(each)
        first, second = (each.name for each in bundles)
        assert "share is 0" in await candidacy.add(first)
        assert candidacy.names == ()
        assert "it serves" in await candidacy.add(held.roles.serving)
        write()
        await reload(gateway, by="a test")
        await until(lambda: candidacy.names == (first,))  # it was noted, and now has a share
        assert "1 candidates are under test already" in await candidacy.add(second)
        assert await candidacy.add(first) == ""
        with pytest.raises(BundleMissing, match="no candidate"):
            await candidacy.remove(second, by="a test")
        (answer,) = (await gateway.answer(None, [Instance(CONFIDENT)], Ask())).answers
        assert answer.prediction is not None
        (candidate,) = candidacy.shadow.candidates
        await until(lambda: candidate.slices.whole.compared == 1)
        runner = candidate.runner
        write(queue=7, gates=GATES | {"escalation": 0.3})
        await reload(gateway, by="a test")
        assert candidate.runner is not runner  # the new bounds are those of new processes
        verdict = candidacy.verdict(first)
        assert verdict is not None
        pairs = {each.gate: (each.limit, each.pairs) for each in verdict.findings}
        assert pairs == {Gate.DISAGREEMENT: (0.2, 0), Gate.ESCALATION: (0.3, 0)}  # anew: it moved
        await held.swap(first, by="a test")
        await until(lambda: candidacy.names == ())  # who serves is no candidate any more
        assert held.registry.candidates() == ()
        assert candidacy.verdict(first) is None

    with_gateway(path, work)


def test_what_other_processes_have_counted_counts(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path, tickets={"shadow": {"share": 1.0, "gates": GATES | {"sequence": True}}}
    )
    bundle = tiny_bundle(tmp_path / "new", seed=1)
    verdicts: list[Verdict | None] = []

    async def work(gateway: Gateway, candidacy: Candidacy) -> None:
        gateway.successions[TASK.name].registry.keep(bundle)
        engine, limits = candidacy._engine, candidacy._settings.shadow.gates.terms().limits
        assert engine is not None
        trial = Trial(Terms(limits=limits), began=5.0)
        for name in limits:
            trial._evidence[name].add(0.0, times=200)
        state = {"trial": trial.saved(), "slices": Slices().saved()}
        broken = {"trial": trial.saved(), "slices": {}}
        rows = [
            Counted("replica", bundle.name, 5.0, state),
            Counted("replica", "tickets-before", 1.0, state),
        ]
        comparisons.save(engine, TASK.name, "replica", rows)
        comparisons.save(
            engine, TASK.name, "damaged", [Counted("damaged", bundle.name, 6.0, broken)]
        )
        assert await candidacy.add(bundle.name) == ""
        verdicts.append(candidacy.verdict(bundle.name))
        (progress,) = await candidacy.progress()
        assert progress.began == 5.0
        assert progress.requests(0, 10) is None
        await candidacy.remove(bundle.name, by="a test")
        assert candidacy.names == ()

    with_gateway(path, work)
    (verdict,) = verdicts
    assert verdict is not None
    assert verdict.decision is Decision.PROMOTE
    # The second candidate ever spends 6 / (2 pi)^2 of 0.05.
    assert verdict.alpha == pytest.approx(0.05 * 0.151982, rel=1e-4)


@pytest.mark.parametrize(
    ("shadow", "words"),
    [
        ({"gates": dict.fromkeys(("disagreement", "serving", "escalation", "latency"))},
         "no gate is asked for"),
        ({"gates": {"noise": 0.01}}, "double_asked is 0"),
        ({"gates": {"critical": 0.02}}, "policy.critical"),
    ],
)  # fmt: skip
def test_gates_that_nothing_can_be_known_of_are_refused(
    shadow: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = settings_file(tmp_path, tickets={"shadow": shadow})
    with pytest.raises(SettingsError, match=words):
        settings.load(path)

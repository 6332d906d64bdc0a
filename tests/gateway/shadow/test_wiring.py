"""What the settings say of audits is what a gateway does, from the start and after a reload."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from gateway import settings
from gateway.assembly import open_gateway
from gateway.reload import reload
from gateway.types import Answer, Instance, Terms
from tests.factories import CONFIDENT, settings_file


def test_both_coins_and_the_slices_follow_the_settings(tmp_path: Path) -> None:
    def write(**audit: object) -> Path:
        return settings_file(tmp_path, tickets={"audit": audit})

    path = write(share=0.1, targeted=0.5, slices=["tier"])

    async def work() -> None:
        async with open_gateway(settings.load(path), read=lambda: settings.load(path)) as gateway:

            async def ask() -> Answer:
                instance = Instance(CONFIDENT, {"tier": "gold"})
                (answer,) = (await gateway.answer(None, [instance], Terms())).answers
                return answer

            answer = await ask()
            assert answer.student is not None
            score = answer.student.score
            aimed = 0.5 * 2 * math.sqrt(score * (1 - score))
            assert answer.audit_uniform == 0.1
            assert answer.audit_propensity == pytest.approx(1 - 0.9 * (1 - aimed))
            served = gateway.quality.served("tickets")
            assert served is not None
            assert list(served.fields["tier"]) == ["gold"]

            write(share=0.2)
            await reload(gateway, by="a test")
            answer = await ask()
            assert (answer.audit_uniform, answer.audit_propensity) == (0.2, 0.2)
            served = gateway.quality.served("tickets")
            assert served is not None
            assert served.fields == {}

            write(share=0.2, slices={"tier": ["gold", "free"]})  # values that are named
            await reload(gateway, by="a test")
            await ask()
            await gateway.shown.look()
            shown = gateway.metrics.render().decode()
            name = "understudy_served_rows"
            for value in ("gold", "free", "other"):
                known = f'{name}{{field="tier",task="tickets",value="{value}"}}' in shown
                assert known is (value != "other")  # none has come
            assert f'{name}{{head="intent",task="tickets"}}' in shown

    asyncio.run(work())

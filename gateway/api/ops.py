"""For those who keep it running: /livez, /readyz, /metrics. Never in the way of an answer.

Where metrics have an address of their own, probes are at both.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from gateway.api.schemas import State, problems
from gateway.api.stats import canaries, shadowed, validities, watched
from gateway.assembly import Gateway
from gateway.errors import Draining, ServingError
from gateway.telemetry.metrics import CONTENT_TYPE

OPEN = frozenset({"/livez", "/readyz"})  # probes carry no key and learn one word


def probes(gateway: Gateway) -> APIRouter:
    """The routes of probes."""
    routes = APIRouter()

    @routes.get("/livez", responses=problems(503))
    async def livez() -> State:
        """Whether the process can still answer; if not, restart it."""
        check_alive(gateway)
        return State(status="alive")

    @routes.get("/readyz", responses=problems(503))
    async def readyz() -> State:
        """Whether new requests may be sent here."""
        check_ready(gateway)
        return State(status="ready")

    return routes


def check_alive(gateway: Gateway) -> None:
    """Whether all runs that answering needs. Raises ServingError."""
    if not gateway.alive:
        raise ServingError("a worker has ended", mend="restart the process")


def check_ready(gateway: Gateway) -> None:
    """Whether new requests may be sent here. Raises Draining or ServingError."""
    if gateway.draining:
        raise Draining("the gateway is shutting down", mend="send requests to another replica")
    check_alive(gateway)


def metrics(gateway: Gateway) -> APIRouter:
    """The route of scrapers."""
    routes = APIRouter()

    @routes.get("/metrics", responses=problems(401), response_class=Response)
    async def render() -> Response:
        """Every metric, in Prometheus' text format."""
        await asyncio.gather(gateway.look_at_budgets(), gateway.shown.look())
        gateway.metrics.certified(validities(gateway))
        gateway.metrics.watched(watched(gateway))
        gateway.metrics.climbing(canaries(gateway))
        gateway.metrics.shadowed(shadowed(gateway))
        return Response(gateway.metrics.render(), headers={"content-type": CONTENT_TYPE})

    return routes

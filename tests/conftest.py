"""Fixtures that open a real gateway: ONNX Runtime, SQLite, files. No part is faked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog
from anyio.from_thread import start_blocking_portal
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from gateway import settings
from gateway.app import build_app
from gateway.assembly import Gateway, open_gateway
from tests.factories import settings_file


class Client(TestClient):
    """Talks to a gateway in this process, on the event loop that the gateway lives on.

    It calls it by an address of this machine, as whoever has no key must.
    """

    gateway: Gateway

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)

    def end_student(self) -> None:
        """End the workers of the student that serves the only task."""
        assert self.portal is not None
        (cascade,) = self.gateway.tasks.values()
        self.portal.call(cascade.rung.student.close)


Opener = Callable[..., Client]


def pytest_addoption(parser: pytest.Parser) -> None:
    """What tests under load may be given."""
    parser.addoption("--bundle", type=Path, help="a real student, in place of a tiny one")
    parser.addoption("--texts", type=Path, help="texts for it, one a line")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Opener]:
    """Open a gateway; takes what `settings_file` takes. All are closed after the test."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())

        def opener(**sections: object) -> Client:
            path = settings_file(tmp_path, **sections)  # type: ignore[arg-type]
            opening = portal.wrap_async_context_manager(
                open_gateway(settings.load(path), read=lambda: settings.load(path))
            )
            gateway = stack.enter_context(opening)
            client = Client(build_app(gateway))
            client.portal, client.gateway = portal, gateway
            return client

        yield opener


@pytest.fixture
def client(serve: Opener) -> Client:
    """A gateway on a tiny student; its scripted teacher says "other" to everything."""
    return serve()


@pytest.fixture(autouse=True)
def _same_logs_after() -> Iterator[None]:
    """A command sets up the logs of its process; the next test starts as this one did."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()

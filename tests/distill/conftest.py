"""Teachers elsewhere are asked here for as long as the machine needs."""

from __future__ import annotations

from tests.gateway.teachers.conftest import unhurried as unhurried  # noqa: PLC0414  a fixture

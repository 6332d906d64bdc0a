"""Addresses: taken alone or shared, and told by name where they cannot be."""

from __future__ import annotations

import socket

import pytest

from gateway.address import bind, listen, url_of
from gateway.errors import SettingsError
from gateway.settings import AdminSettings, ServerSettings


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"'127.0.0.1', server.port {port}") as caught:
            bind(ServerSettings(port=port))
    assert "--port" in caught.value.mend


def test_of_two_that_may_both_bind_only_one_may_listen() -> None:
    with bind(AdminSettings(port=0)) as first:
        port = first.getsockname()[1]
        with bind(AdminSettings(port=port)):  # neither listens yet
            first.listen()
            with pytest.raises(SettingsError, match=rf"admin.port {port}: Address already in use"):
                listen(AdminSettings(port=port), name="admin")


def test_a_shared_address_may_be_taken_by_several() -> None:
    with bind(ServerSettings(port=0), shared=True) as first:
        first.listen()
        place = ServerSettings(port=first.getsockname()[1])
        with bind(place, shared=True) as second:
            second.listen()
            assert second.getsockname() == first.getsockname()
        with pytest.raises(SettingsError, match="in use"):
            listen(place, name="server")


@pytest.mark.parametrize("host", ["256.1.1.1", "a..b", "a" * 64])
def test_a_host_that_does_not_exist_is_named(host: str) -> None:
    with pytest.raises(SettingsError, match=f"server.host '{host}'"):
        bind(ServerSettings(host=host, port=0))


@pytest.mark.parametrize(
    ("host", "start"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")]
)
def test_the_url_of_a_socket_can_be_asked(host: str, start: str) -> None:
    with listen(ServerSettings(host=host, port=0), name="server") as listener:
        assert url_of(listener) == f"{start}{listener.getsockname()[1]}"

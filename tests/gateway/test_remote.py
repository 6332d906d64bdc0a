"""How the command line reaches a gateway: the admin's key is shown to that one, and to no other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.cli.remote import Gateways, reach
from gateway.errors import ServingError, UsageError

_HANGS_S = 120.0  # where nobody else is asked meanwhile


@contextmanager
def host(
    status: int, *, length: int = 2, until: threading.Barrier | None = None, **headers: str
) -> Iterator[tuple[str, list[str]]]:
    """A host that says one thing to everybody: its URL, and the keys that it was shown.

    With another `length` its replies end early; before it replies it waits for those of `until`.
    """
    keys: list[str] = []

    class Replies(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("authorization", ""))
            if until is not None:
                until.wait(_HANGS_S)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(length))
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_arguments: object) -> None:
            """Nothing is said."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def nobody() -> Iterator[str]:
    """A URL that refuses connections, and that nobody else may take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_does_not_follow_to_another_host(status: int) -> None:
    with host(200) as (elsewhere, stolen), host(status, location=elsewhere) as (url, keys):
        with pytest.raises(UsageError) as caught:
            list(Gateways((url,), "secret").each("GET", "/admin/v1/students"))
        assert f"sends on to '{elsewhere}' (status {status})" in caught.value.message
        assert caught.value.mend == "name the gateway itself with --admin"
        assert (keys, stolen) == (["Bearer secret"], [])


def test_the_key_goes_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with host(200) as (proxy, stolen), host(200) as (url, keys):
        monkeypatch.setenv("http_proxy", proxy)
        assert list(Gateways((url,), "secret").each("GET", "/")) == [(url, {})]
        assert (keys, stolen) == (["Bearer secret"], [])


@pytest.mark.parametrize(
    ("status", "kind"), [(304, UsageError), (404, UsageError), (500, ServingError)]
)
def test_a_reply_that_is_not_a_gateways_is_an_error(
    status: int, kind: type[UsageError | ServingError]
) -> None:
    with host(status) as (url, _), pytest.raises(kind, match=f"{url}: .*status {status}"):
        list(Gateways((url,), "").each("GET", "/"))


def test_whoever_can_be_reached_is_told() -> None:
    with nobody() as gone, host(200) as (url, keys):
        gateways = Gateways((gone, url), "secret")
        assert gateways.first("/") == {}
        replies, (wrong,) = gateways.all("GET", "/", body=b"", kind="application/json")
        assert (replies, len(keys), gone in wrong.message) == ([(url, {})], 2, True)


def test_all_are_told_at_once_so_that_one_that_hangs_delays_nobody() -> None:
    both = threading.Barrier(2)  # neither replies before the other one is asked
    with host(200, until=both) as (one, _), host(200, until=both) as (two, _):
        replies, wrong = Gateways((one, two), "").all("GET", "/", body=b"", kind="text/plain")
    assert (replies, wrong) == ([(one, {}), (two, {})], [])


@pytest.mark.parametrize("status", [200, 503])
def test_a_reply_that_ends_early_is_an_error_of_that_gateway(status: int) -> None:
    with host(status, length=9) as (cut, _), host(200) as (url, _):
        gateways = Gateways((cut, url), "")
        assert gateways.first("/") == {}
        replies, (wrong,) = gateways.all("GET", "/", body=b"", kind="text/plain")
    assert replies == [(url, {})]
    assert isinstance(wrong, ServingError)
    assert wrong.message.startswith(f"{cut}: ")


def test_what_is_not_there_is_said_with_the_url() -> None:
    with nobody() as url, pytest.raises(ServingError, match=url) as caught:
        list(Gateways((url,), "").each("GET", "/"))
    assert "--admin" in caught.value.mend


def test_a_url_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a URL"):
        reach(tmp_path / "none.yaml", ["file:///etc/passwd"], None)

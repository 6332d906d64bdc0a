"""The gateways that run, as the command line reaches them: over the admin API.

Where they are comes from the settings, or from `--admin`; the key from a file or from
`UNDERSTUDY_API_KEY`, never from the command line, which every user of a machine can see.
"""
# ruff: noqa: PLC0415  imports stand inside the functions: --help then comes in a fraction of a second

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from gateway.errors import ServingError, SettingsError, UnderstudyError, UsageError

if TYPE_CHECKING:
    from urllib.error import HTTPError
    from urllib.request import OpenerDirector

    from gateway.settings import Settings

Admin = Annotated[
    list[str] | None,
    typer.Option("--admin", help="URL of a gateway; may be repeated. Else as the settings say."),
]
KeyFile = Annotated[
    Path | None, typer.Option(help="Holds an admin's key; else UNDERSTUDY_API_KEY does.")
]

_TIMEOUT_S = 300.0  # a large bundle is sent, rehearsed and warmed in less
_LOOK_S = 10.0  # for a look that is done at once, where the next gateway may be asked too
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what listens there is here


@dataclass(frozen=True, slots=True)
class Gateways:
    """URLs of gateways, and the key that they know."""

    urls: tuple[str, ...]
    key: str

    def each(
        self, method: str, path: str, *, body: bytes | Path | None = None, kind: str = ""
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Ask every gateway in turn: its URL, its reply. Raises UsageError or ServingError.

        The error of one says which were asked before it.
        """
        done: list[str] = []
        for url in self.urls:
            try:
                reply = self._ask(method, url, path, body, kind)
            except UnderstudyError as error:
                if done:
                    error.mend += f"; done already at {', '.join(done)}"
                raise
            done.append(url)
            yield url, reply

    def all(
        self, method: str, path: str, *, body: bytes, kind: str
    ) -> tuple[list[tuple[str, dict[str, Any]]], list[UnderstudyError]]:
        """Ask every gateway, whatever another one says: the replies, and what went wrong.

        All at once, so that nobody hears of it later because another one hangs.
        """
        from concurrent.futures import ThreadPoolExecutor

        replies: list[tuple[str, dict[str, Any]]] = []
        wrong: list[UnderstudyError] = []
        with ThreadPoolExecutor(len(self.urls)) as asking:
            asked = [
                (url, asking.submit(self._ask, method, url, path, body, kind)) for url in self.urls
            ]
            for url, reply in asked:
                try:
                    replies.append((url, reply.result()))
                except UnderstudyError as error:
                    wrong.append(error)
        return replies, wrong

    def first(self, path: str) -> dict[str, Any]:
        """What the first gateway says that can be reached. Raises UsageError, or as the last."""
        *others, last = self.urls
        for url in others:
            with suppress(ServingError):
                return self._send("GET", url, path, None, "", 0, timeout=_LOOK_S)
        return self._send("GET", last, path, None, "", 0, timeout=_LOOK_S)

    def _ask(
        self, method: str, url: str, path: str, body: bytes | Path | None, kind: str
    ) -> dict[str, Any]:
        if isinstance(body, Path):
            with body.open("rb") as file:
                return self._send(method, url, path, file, kind, body.stat().st_size)
        return self._send(method, url, path, body, kind, len(body or b""))

    def _send(
        self,
        method: str,
        url: str,
        path: str,
        body: bytes | IO[bytes] | None,
        kind: str,
        size: int,
        *,
        timeout: float = _TIMEOUT_S,
    ) -> dict[str, Any]:
        import json
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request

        headers = {"accept": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        if body is not None:
            headers |= {"content-type": kind, "content-length": str(size)}
        request = Request(url + path, data=body, headers=headers, method=method)  # noqa: S310  checked
        try:
            with _opener().open(request, timeout=timeout) as reply:
                content: dict[str, Any] = json.load(reply)
                return content
        except HTTPError as error:
            with error:
                raise _refusal(url, error) from error
        except (OSError, ValueError, HTTPException) as error:  # the last: it ends in between
            raise ServingError(
                f"{url}: {getattr(error, 'reason', error)}",
                mend="see that the gateway runs there, or name another URL with --admin",
            ) from error


def reach(config: Path, admin: Sequence[str] | None, key_file: Path | None) -> Gateways:
    """The gateways that a command is meant for. Raises SettingsError or UsageError."""
    from gateway import settings

    urls = tuple(_checked(url) for url in admin) if admin else _urls(settings.load(config))
    if key_file is None:
        return Gateways(urls, settings.key_of_environment())
    try:
        return Gateways(urls, key_file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--key-file {key_file}: {error}", mend="name a readable file") from error


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--admin {url}: not a URL", mend="write http://HOST:PORT")
    return url.rstrip("/")


def _urls(settings: Settings) -> tuple[str, ...]:
    """Where the settings say that the administration of every replica is."""
    places = [
        settings.admin_of(replica) or settings.server for replica in range(settings.server.replicas)
    ]
    for place in places:
        if not place.port:
            raise SettingsError(
                "the settings leave the port to the system",
                mend="name the URL of the ready line with --admin",
            )
    hosts = [_EVERYWHERE.get(place.host, place.host) for place in places]
    return tuple(
        f"http://[{host}]:{place.port}" if ":" in host else f"http://{host}:{place.port}"
        for host, place in zip(hosts, places, strict=True)
    )


def _opener() -> OpenerDirector:
    """What asks that one host and no other, no proxy either: the key is for nobody else's eyes."""
    from urllib import request

    opener = request.OpenerDirector()
    opener.add_handler(request.HTTPHandler())
    opener.add_handler(request.HTTPSHandler())
    opener.add_handler(request.HTTPErrorProcessor())  # finds no handler of redirects, and refuses
    opener.add_handler(request.HTTPDefaultErrorHandler())
    return opener


def _refusal(url: str, error: HTTPError) -> UnderstudyError:
    """What a gateway said no with, as an error of ours."""
    import json
    from http.client import HTTPException

    if error.code < 400:
        return UsageError(
            f"{url}: it sends on to {error.headers.get('location', 'nowhere')[:200]!a} "
            f"(status {error.code}), and the key goes nowhere else",
            mend="name the gateway itself with --admin",
        )
    try:
        said: Mapping[str, Any] = json.load(error)
        message, mend = f"{url}: {said['detail']} ({said['code']})", str(said["mend"])
    except (OSError, ValueError, TypeError, KeyError, HTTPException):
        message, mend = f"{url}: status {error.code}", "see that a gateway runs there"
    kind = UsageError if error.code < 500 else ServingError
    return kind(message, mend=mend)

"""Where a request that may change something comes from: a program, or a page of the gateway's own.

A browser sends what any page tells it to, to this machine too, where no key may be wanted. It says
in Origin whose page it is, and in Host by which name the page has reached us: another site's name
can be made to mean this machine. Programs send no Origin. Whose key it is, `auth` knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.errors import Forbidden
from gateway.settings import is_loopback

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::\d{1,5})?")  # RFC 9110, section 7.2


def check(headers: Iterable[tuple[bytes, bytes]], *, keyless: bool) -> None:
    """Let a request of a program or of our own page through. Raises Forbidden.

    `keyless`: no key stands for the caller, so it must also have meant this machine by its name.
    """
    found = {name: value.decode("latin-1").lower() for name, value in headers}
    host, origin = found.get(b"host", ""), found.get(b"origin")
    if keyless and not _is_local(host):
        raise Forbidden(
            f"without keys nothing is changed under the name {host[:80]!a}",
            mend="ask for 127.0.0.1 or localhost, or configure a key: `understudy key NAME`",
        )
    if origin is not None and origin.partition("://")[2] != host:
        raise Forbidden(
            f"a page of {origin[:80]!a} may change nothing here", mend="ask from outside a browser"
        )


def _is_local(host: str) -> bool:
    parts = _HOST.fullmatch(host)
    return parts is not None and is_loopback(parts[1] or parts[2])

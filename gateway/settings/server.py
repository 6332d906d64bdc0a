"""Where the gateway listens, who may ask it, and what it logs."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway.settings.part import Name, Part

_ANYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  hosts that stand for every other
# Who changes something where no key does, as the log of changes says it: no key may pass for them.
_OURS = frozenset({"SIGHUP", "alarm", "automatic", "canary", "start"})


class ServerSettings(Part):
    """Where the gateway listens, what it accepts, how it leaves."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535, description="0: a free port")
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    max_inputs: int = Field(default=256, ge=1, le=10_000, description="texts in one request")
    max_characters: int = Field(default=100_000, ge=1, description="of one text")
    drain_delay_s: float = Field(default=0.0, ge=0.0, description="not ready, still serving")
    receipt_s: float = Field(
        default=10.0, gt=0.0, description="for a whole request, from its first byte"
    )
    send_s: float = Field(default=10.0, gt=0.0, description="for a client to take its reply")
    max_header_bytes: int = Field(default=32_768, ge=1024, description="request line included")
    max_headers: int = Field(default=100, ge=8, description="of one request")
    # Half of them held by one slow client still leave room; a proxy, whose address all its clients
    # share, needs more, or 0.
    max_connections_per_address: int = Field(default=1024, ge=0, description="0: no bound")
    replicas: int = Field(default=1, ge=1, le=256, description="processes on this one address")
    drain_timeout_s: float = Field(default=30.0, gt=0.0, description="for requests in flight")


class AdminSettings(Part):
    """Where metrics and administration are, apart from answering."""

    host: str = "127.0.0.1"
    port: int = Field(default=8081, ge=0, le=65535, description="of the first replica; 0: free")


def _not_ours(name: str) -> str:
    if name in _OURS:
        raise ValueError(f"{name} is who changes something by itself; name the key otherwise")
    return name


class KeySettings(Part):
    """An API key, as `understudy key` prints it. The key itself is stored nowhere."""

    name: Annotated[Name, AfterValidator(_not_ours)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    role: Literal["client", "admin"] = Field(
        default="client", description="admin: may also change what serves"
    )


class LogSettings(Part):
    """Logs go to standard error, without request text."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console", "auto"] = "auto"


def meet(one: str, other: str) -> bool:
    """Whether two listeners at these hosts cannot have the same port."""
    return one == other or not _ANYWHERE.isdisjoint({one, other})


def is_loopback(host: str) -> bool:
    """Whether that name or address is this machine's own, which no other can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

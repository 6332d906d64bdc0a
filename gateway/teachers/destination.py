"""Where a teacher may be asked: a URL of the settings, and the addresses that no URL leads to.

Only the operator names a destination, so that private and loopback addresses are his to name: a
teacher mostly runs beside the gateway. Addresses where a cloud keeps the machine's own credentials
are refused always, however they are written and whatever name leads to them, and so is what is no
single machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_LONGEST = 2048  # characters of a URL; longer ones are refused by common servers too
_LAST_PORT = 65_535  # of TCP
_PORTS = {"http": 80, "https": 443}

_NAME = r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)"  # RFC 1123, and _ as compose has it
_URL = re.compile(
    rf"(?P<scheme>https?)://(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>{_NAME}(?:\.{_NAME})*))"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>/[A-Za-z0-9._~$!&'()*+,;=:@/-]*)?",
    re.ASCII,
)
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)")  # what some resolvers read as IPv4
_LOCALHOST = IPv6Address("::1")

_REFUSED = tuple(
    (ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "no machine"),
        ("169.254.0.0/16", "link-local, where clouds keep credentials"),
        ("100.100.100.200/32", "a cloud's metadata"),  # Alibaba
        ("168.63.129.16/32", "a cloud's metadata"),  # Azure
        ("192.0.0.192/32", "a cloud's metadata"),  # Oracle
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "no machine"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local, which is given up"),
        ("fd00:ec2::/32", "a cloud's metadata"),  # AWS
        ("fd20:ce::254/128", "a cloud's metadata"),  # Google
        ("fd00:42::42/128", "a cloud's metadata"),  # Scaleway
        ("fd00:c1::/32", "a cloud's metadata"),  # Oracle
        ("2001::/32", "a tunnel"),  # Teredo
        ("2002::/16", "a tunnel"),  # 6to4
        ("64:ff9b:1::/48", "a translation that is not known here"),  # RFC 8215
        ("ff00::/8", "multicast"),
    )
)
# IPv6 networks whose last 32 bits are an IPv4 address: mapped, compatible, translated (RFC 6052).
_HOLDING = tuple(ip_network(each) for each in ("::ffff:0:0/96", "::/96", "64:ff9b::/96"))


@dataclass(frozen=True, slots=True)
class Destination:
    """A checked URL in its parts. `path` is empty, or begins with a slash and ends with none."""

    scheme: str
    host: str  # a name or an address; IPv6 without its brackets
    port: int
    path: str

    def __str__(self) -> str:
        """The URL."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def destination(url: str) -> Destination:
    """The URL's parts, if it is plainly written. Raises ValueError, which does not show the URL.

    Plainly: `http` or `https`, a host, maybe a port and a path of unreserved characters. No user
    information, query, fragment, percent sign, backslash, blank, or character beyond ASCII; no
    number that is an address only to some; no step like `..`.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("a URL holds no user or password; name the key in the environment")
    found = _URL.fullmatch(url) if len(url) <= _LONGEST else None
    if found is None:
        raise ValueError("not a plain URL, like https://host.example:8443/path")
    path = (found["path"] or "").rstrip("/")
    if any(step in ("", ".", "..") for step in path.split("/")[1:]):
        raise ValueError("the path of a URL has no empty step, no . and no ..")
    port = int(found["port"] or _PORTS[found["scheme"]])
    if port > _LAST_PORT:
        raise ValueError(f"the last port is {_LAST_PORT}")
    return Destination(found["scheme"], _host(found["six"], found["host"]), port, path)


def refusal(address: str) -> str:
    """Why that address is never connected to; empty where it may be. Raises ValueError for none."""
    return _refusal(ip_address(address))


def _host(six: str | None, name: str | None) -> str:
    if name is not None and not _NUMERIC.fullmatch(name):
        if len(name) > 253:  # RFC 1035
            raise ValueError("a host name has at most 253 characters")
        return name.lower()
    literal = six if name is None else name
    try:
        address = IPv4Address(literal) if six is None else IPv6Address(literal)
    except ValueError as error:
        raise ValueError("the host is no address, and no name either") from error
    if reason := _refusal(address):
        raise ValueError(f"no teacher is asked at this address: {reason}")
    return str(address)


def _refusal(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "it holds only on one interface"
        if address != _LOCALHOST and any(address in network for network in _HOLDING):
            return _refusal(IPv4Address(int(address) & 0xFFFF_FFFF))
    return next((reason for network, reason in _REFUSED if address in network), "")

"""Where a teacher may be asked: which URLs are plain, and which addresses nothing leads to."""

from __future__ import annotations

import pytest

from gateway.teachers.destination import Destination, destination, refusal

_SHAPES = [
    "",
    "host",
    "//host/v1",
    "ftp://host/v1",
    "file:///etc/passwd",
    "HTTP://host",
    "http:host",
    "http:/host",
    "http:///v1",
    "http://",
    "http://:8080",
    " http://host",
    "http://host ",
    "http://ho st/",
    "http://host\n",
    "http://host\t/v1",
    "http://host\r\nX-Other: 1/",
    "http://host\x00/",
    "http://host\\@other/",
    "http:\\\\host",
    "http://host/\\..\\v1",
    "http://user@host",
    "http://user:secret@host/v1",
    "http://:@host",
    "http://host:8080@other",
    "http://host?x=1",
    "http://host/v1?x=1",
    "http://host/v1#part",
    "http://host/%2e%2e/v1",
    "http://host%00/",
    "http://host/a/../b",
    "http://host/./b",
    "http://host//v1",
    "http://host:0",
    "http://host:080",
    "http://host:65536",
    "http://host:99999",
    "http://host:-1",
    "http://host:80:80",
    "http://host:",
    "http://host..example",
    "http://.host",
    "http://host.",
    "http://-host",
    "http://host-",
    "http://h\u00f6st",
    "http://host\u3002example",
    "http://\u2460\u2461\u2462.example",
    "http://{host}",
    f"http://{'a' * 64}.example",
    f"http://{'a.' * 130}example",
    f"http://host/{'a' * 2048}",
    "http://2130706433",  # 127.0.0.1 as one number
    "http://0x7f000001",
    "http://0x7f.0.0.1",
    "http://0177.0.0.1",
    "http://127.1",
    "http://127.0.0.01",
    "http://127.0.0.256",
    "http://1.2.3.4.5",
    "http://a.0x",
    "http://[::1",
    "http://::1",
    "http://[]",
    "http://[g::1]",
    "http://[127.0.0.1]",
    "http://[fe80::1%25eth0]",
    "http://[::1]a",
]
_ADDRESSES = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "169.254.169.254",
    "169.254.0.1",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::ffff:0.0.0.0",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "fd00:ec2::254",
    "fd00:ec2:0:0:0:0:0:23",
    "fd20:ce::254",
    "fd00:42::42",
    "fd00:c1::a9fe:a9fe",
    "ff02::1",
    "::ffff:255.255.255.255",
]


@pytest.mark.parametrize("url", _SHAPES, ids=ascii)
def test_a_url_that_is_not_plain_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        destination(url)


def test_a_refusal_does_not_repeat_a_password() -> None:
    with pytest.raises(ValueError, match="no user or password") as raised:
        destination("http://user:hunter2@host")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("address", _ADDRESSES)
def test_an_address_that_nothing_leads_to_is_refused_in_every_form(address: str) -> None:
    assert refusal(address)
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ValueError, match="no teacher is asked at this address"):
        destination(f"http://{host}/latest/meta-data")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.7",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "93.184.216.34",
        "::1",
        "::ffff:10.0.0.7",
        "64:ff9b::93.184.216.34",
        "fd12:3456::1",
        "2606:2800:220:1::1",
    ],
)
def test_private_loopback_and_public_addresses_are_the_operators_to_name(address: str) -> None:
    assert refusal(address) == ""


def test_an_address_of_one_interface_is_refused() -> None:
    assert refusal("fd12::1%eth0") == "it holds only on one interface"


@pytest.mark.parametrize(
    ("url", "parts", "authority"),
    [
        ("https://host", ("https", "host", 443, ""), "host"),
        ("http://host/", ("http", "host", 80, ""), "host"),
        ("http://Host.Example:8000/v1/", ("http", "host.example", 8000, "/v1"), None),
        ("http://my_model-0.ns.svc:80/a/b", ("http", "my_model-0.ns.svc", 80, "/a/b"), None),
        ("http://127.0.0.1:1/", ("http", "127.0.0.1", 1, ""), "127.0.0.1:1"),
        ("https://[::1]:65535", ("https", "::1", 65535, ""), "[::1]:65535"),
        ("https://[0:0::1]/v1", ("https", "::1", 443, "/v1"), "[::1]"),
        ("http://host/@a;b=1,(c)", ("http", "host", 80, "/@a;b=1,(c)"), "host"),
    ],
)
def test_a_plain_url_is_taken_apart(
    url: str, parts: tuple[str, str, int, str], authority: str | None
) -> None:
    found = destination(url)
    assert found == Destination(*parts)
    if authority is not None:
        assert found.authority == authority


def test_a_destination_is_shown_as_its_url() -> None:
    assert str(destination("https://Host:443/v1/")) == "https://host/v1"
    assert str(destination("http://[::1]:81")) == "http://[::1]:81"

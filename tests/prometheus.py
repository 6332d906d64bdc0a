"""Prometheus and promtool: those of this machine, else of Debian's package, unpacked into build/.

Nothing is installed: the package is fetched with `apt-get download`, which any user may, and only
unpacked. Where there is neither, the tests that ask for a program are skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.house.pages import ROOT
from tests.patience import two_free_ports, until

_UNPACKED = ROOT / "build" / "prometheus"
_PACKAGE = "prometheus"
_FETCH_S = 200.0  # 20 MB
_TIMEOUT_S = 120.0  # far above what anything takes here: only a hang reaches it
_RULES = ROOT / "deploy" / "prometheus"
_OFTEN = "250ms"  # between two scrapes, and two looks at the rules
_AT_ONCE = re.compile(r"^ +for: \w+\n", re.MULTILINE)
_LOOKS_BACK = re.compile(r"\[\d+[smhd]\]")


class Prometheus:
    """A Prometheus that runs, asked over its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ready(self) -> bool:
        """Whether it answers yet."""
        try:
            return httpx2.get(f"{self._url}/-/ready", timeout=_TIMEOUT_S).status_code == 200
        except httpx2.TransportError:
            return False

    def firing(self) -> dict[str, str]:
        """The alerts that are heard now, with what they say."""
        alerts = self._get("alerts")["alerts"]
        return {
            each["labels"]["alertname"]: each["annotations"]["summary"]
            for each in alerts
            if each["state"] == "firing"
        }

    def heard(self) -> set[str]:
        """The alerts that have been heard at any time of the last hour, also those over by now."""
        query = 'group by (alertname) (max_over_time(ALERTS{alertstate="firing"}[1h]))'
        found = self._get("query", query=query)["result"]
        return {each["metric"]["alertname"] for each in found}

    def value(self, query: str) -> float | None:
        """The one value of a query, if it has one."""
        found = self._get("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def unhealthy(self) -> list[str]:
        """The rules that could not be evaluated, or not yet."""
        groups = self._get("rules")["groups"]
        assert groups
        return [rule["name"] for each in groups for rule in each["rules"] if rule["health"] != "ok"]

    def _get(self, path: str, **asked: str) -> Any:
        reply = httpx2.get(f"{self._url}/api/v1/{path}", params=asked, timeout=_TIMEOUT_S)
        assert reply.status_code == 200, reply.text
        return reply.json()["data"]


@contextmanager
def watched(
    folder: Path, *urls: str, key: str = "none", looks_back: str | None = None
) -> Iterator[Prometheus]:
    """A Prometheus with what deploy/ has for it: it scrapes those gateways, and looks often.

    An alert need not last there before it is heard. `looks_back`, as in `15s`, takes the place of
    the minutes and hours over which the rules look back: a story has no quarter of an hour.
    """
    folder.mkdir()
    document = yaml.safe_load((_RULES / "prometheus.yml").read_text())
    document["global"] = {"scrape_interval": _OFTEN, "evaluation_interval": _OFTEN}
    (scrape,) = document["scrape_configs"]
    scrape["static_configs"] = [{"targets": [url.removeprefix("http://") for url in urls]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(document))
    rules = _AT_ONCE.sub("", (_RULES / "rules.yml").read_text())
    if looks_back is not None:
        rules = _LOOKS_BACK.sub(f"[{looks_back}]", rules)
    (folder / "rules.yml").write_text(rules)
    (folder / "scrape.key").write_text(key)
    address = f"127.0.0.1:{two_free_ports()}"
    process = subprocess.Popen(
        [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        prometheus = Prometheus(f"http://{address}")
        until(lambda: process.poll() is not None or prometheus.ready())
        assert process.poll() is None
        yield prometheus
    finally:
        process.terminate()
        process.wait(_TIMEOUT_S)


def program(name: str) -> Path:
    """The path of `prometheus` or `promtool`; without them the test is skipped."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    found = _UNPACKED / "usr" / "bin" / name
    if not found.exists() and not _fetch():
        pytest.skip(f"there is no {name} here, nor can Debian's package {_PACKAGE} be fetched")
    return found


def _fetch() -> bool:
    """Unpack the package aside, and move it to its place as a whole: others may do the same."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    _UNPACKED.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_UNPACKED.parent) as folder:
        try:
            fetched = subprocess.run(
                ["apt-get", "download", "-q", _PACKAGE],
                cwd=folder,
                capture_output=True,
                timeout=_FETCH_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        packages = list(Path(folder).glob("*.deb"))
        if fetched.returncode != 0 or len(packages) != 1:
            return False
        whole = Path(folder) / "whole"
        subprocess.run(["dpkg-deb", "-x", packages[0], whole], check=True, capture_output=True)
        try:
            whole.rename(_UNPACKED)
        except OSError:  # another process of the tests was faster, and a full folder stays
            if not _UNPACKED.exists():
                raise
    return True

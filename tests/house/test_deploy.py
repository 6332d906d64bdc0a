"""What deploy/ holds fits the code: metrics, settings, files; promtool judges the rest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana import dashboard
from gateway import settings
from tests.house.pages import ROOT, page
from tests.prometheus import program

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"

_SELECTOR = re.compile(r"\b(understudy_\w+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_OF_SCRAPES = {"instance", "job", "le"}  # labels that Prometheus adds, and those of buckets


def exported() -> dict[str, set[str]]:
    """Series -> its labels, as the reference says, which another test holds against the code."""
    series: dict[str, set[str]] = {}
    for row in page("docs/reference/metrics.md").rows():
        if len(row) != 4:
            continue
        labels = {label.strip("` ") for label in row[2].split(",") if label}
        names = [f"{row[0]}_{part}" for part in ("bucket", "sum", "count")]
        series |= dict.fromkeys(names if row[1] == "histogram" else [row[0]], labels)
    return series


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return list(group["rules"])


def shown() -> Iterator[str]:
    """The queries of the dashboard, as Grafana would send them."""
    for panel in dashboard.dashboard()["panels"]:
        for target in panel.get("targets", []):
            plain = target["expr"].replace("$__rate_interval", "5m").replace("$__range", "6h")
            yield plain.replace("$task", ".*")


def unknown(query: str) -> list[str]:
    """Series and labels of a query that no gateway exports."""
    series, wrong = exported(), []
    labels = set(_OF_SCRAPES)
    for name, matchers in _SELECTOR.findall(query):
        wrong += [] if name in series else [name]
        known = series.get(name, set()) | _OF_SCRAPES
        labels |= known
        # The dashboard's choice of a task also lets through what knows no task.
        asked = [each for each in _MATCHER.findall(matchers) if each != "task"]
        wrong += [f"{name}{{{label}}}" for label in asked if label not in known]
    grouped = {label.strip() for group in _GROUPING.findall(query) for label in group.split(",")}
    return wrong + sorted(grouped - labels)


def test_every_query_names_what_a_gateway_exports() -> None:
    queries = [*(rule["expr"] for rule in rules()), *shown()]
    assert len(queries) > 40
    assert {query: unknown(query) for query in queries if unknown(query)} == {}


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("rate(understudy_request_total[5m])", ["understudy_request_total"]),
        ('understudy_requests_total{rout="none"}', ["understudy_requests_total{rout}"]),
        ("sum by (reason) (understudy_requests_total)", ["reason"]),
        ("understudy_overhead_seconds", ["understudy_overhead_seconds"]),
    ],
)
def test_a_query_of_what_nobody_exports_is_noticed(query: str, wrong: list[str]) -> None:
    assert unknown(query) == wrong


def test_every_metric_is_on_the_dashboard_that_lies_there() -> None:
    kept = dashboard.PATH.read_text()
    assert json.loads(kept) == dashboard.dashboard(), "run `make deploy-files`"
    named = {name for query in shown() for name, _ in _SELECTOR.findall(query)}
    bases = {re.sub("_bucket$", "", name) for name in named}
    assert bases == {row[0] for row in page("docs/reference/metrics.md").rows() if len(row) == 4}


def test_the_dashboard_is_written_as_it_lies_there(tmp_path: Path) -> None:
    dashboard.write(tmp_path / "dashboard.json")
    assert (tmp_path / "dashboard.json").read_text() == dashboard.PATH.read_text()


def test_no_two_panels_of_the_dashboard_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard.dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (at["x"] + across, at["y"] + down)
            for across in range(at["w"])
            for down in range(at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_promtool_accepts_the_rules_the_configuration_and_the_dashboards_queries(
    tmp_path: Path,
) -> None:
    promtool = program("promtool")
    for name in ("prometheus.yml", "rules.yml"):
        shutil.copy(PROMETHEUS / name, tmp_path)
    (tmp_path / "scrape.key").write_text("a key")
    queries = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(shown())]
    group = {"name": "dashboard", "rules": queries}
    (tmp_path / "dashboard.yml").write_text(yaml.safe_dump({"groups": [group]}))
    for check, name in (
        ("config", "prometheus.yml"), ("rules", "rules.yml"), ("rules", "dashboard.yml"),
    ):  # fmt: skip
        ran = subprocess.run(
            [promtool, "check", check, tmp_path / name], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_is_heard_when_it_should_be_and_else_not() -> None:
    promtool = program("promtool")
    ran = subprocess.run(
        [promtool, "test", "rules", "rules.test.yml"],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tested = yaml.safe_load((PROMETHEUS / "rules.test.yml").read_text())["tests"]
    heard = {
        case["alertname"]
        for test in tested
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert heard == {rule["alert"] for rule in rules()}


def test_every_alert_is_explained() -> None:
    told = page("docs/how-to/monitor.md").text
    assert [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in told] == []


def test_the_container_is_built_of_files_that_are_there_and_runs_as_nobody_in_particular() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--" not in line]
    sources = {source for names in copied for source in names}
    assert all((ROOT / source).exists() for source in sources)
    lets_in = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lets_in if line.startswith("!")} == sources
    assert "USER 10001:10001" in lines
    assert any("-c constraints.txt '.[postgres]'" in line for line in lines)


def test_the_settings_of_the_containers_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_RECORDS_URL", "postgresql://understudy:x@postgres/understudy")
    kept = (DEPLOY / ".env.example").read_text().splitlines()
    (keys,) = [line.partition("=")[2] for line in kept if line.startswith("UNDERSTUDY_API_KEYS=")]
    monkeypatch.setenv("UNDERSTUDY_API_KEYS", keys)
    loaded = settings.load(DEPLOY / "understudy.yaml")
    assert [(key.name, key.role) for key in loaded.keys] == [("scrape", "client"), ("ops", "admin")]
    admin = loaded.admin_of(0)
    assert admin is not None
    (scrape,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"gateway:{admin.port}"]}]


def test_what_the_containers_mount_is_there_or_is_what_a_person_brings() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounted = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume.startswith("./")
    }
    brought = {"./bundles", "./scrape.key"}
    assert {each for each in mounted if not (DEPLOY / each).exists()} - brought == set()
    wanted = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    given = re.findall(r"^(\w+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE)
    assert wanted == set(given)
    assert services["gateway"]["read_only"] is True

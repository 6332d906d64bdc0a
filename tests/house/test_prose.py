"""What the project says of itself: no machine's paths, no registry's host, links that lead on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway
from tests.house.pages import ROOT, Page, page, pages

_KINDS = {".md", ".py", ".toml", ".yaml", ".yml", ".txt", ".jinja", ".json"}
_PLACES = (
    "gateway",
    "exporters",
    "distill",
    "tests",
    "benchmarks",
    "loadtests",
    "docs",
    "deploy",
    ".ci",
)
_MACHINE = re.compile(r"(?<![\w.<>/:])/(?:work|root|home|Users)/")
_REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|npmjs\.(?:org|com)|anaconda\.org"
)
_RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)


def _files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in _KINDS)
    yield from (ROOT / name for name in ("Makefile", "LICENSE", ".gitignore"))
    for place in _PLACES:
        for path in (ROOT / place).rglob("*"):
            if path.suffix == ".pyc" or not path.is_file():
                continue
            if path.suffix in _KINDS or place in {"deploy", ".ci"}:
                yield path


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    assert _lines_with(_MACHINE) == []


def test_no_file_names_the_host_of_a_package_registry() -> None:
    assert _lines_with(_REGISTRY) == []


@pytest.mark.parametrize("line", ["cd /" + "root/x", "'/" + "home/me'", "see /" + "Users/me"])
def test_a_machines_path_is_recognised(line: str) -> None:
    assert _MACHINE.search(line)


def test_the_newest_release_note_is_that_of_this_version() -> None:
    newest = _RELEASE.search(page("CHANGELOG.md").text)
    assert newest is not None
    assert newest[1] == gateway.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == gateway.__version__


@pytest.mark.parametrize("source", pages(), ids=lambda source: source.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(source: Page) -> None:
    for link in source.links():
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, fragment = link.partition("#")
        path = (source.path.parent / target).resolve() if target else source.path
        assert path.exists(), f"{source.name}: {link}"
        if fragment:
            name = path.relative_to(ROOT).as_posix()
            assert fragment in page(name).anchors(), f"{source.name}: {link}"


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    linked = {(ROOT / "docs" / link).resolve() for link in page("docs/index.md").links()}
    written = {path.resolve() for path in (ROOT / "docs").rglob("*.md")}
    assert written - linked == {(ROOT / "docs/index.md").resolve()}

"""The project's Markdown pages, taken apart: code blocks, tables, headings, links."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BAR = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path within the project."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """Contents of the fenced blocks of a language."""
        return [body for kind, body in _FENCE.findall(self.text) if kind == language]

    def links(self) -> list[str]:
        """Targets of its links."""
        return _LINK.findall(self.prose)

    def rows(self) -> list[list[str]]:
        """Cells of all table rows, without code marks; headers and rules are left out."""
        lines = [line for line in self.prose.splitlines() if line.startswith("| `")]
        return [[_cell(cell) for cell in _BAR.split(line)[1:-1]] for line in lines]

    def section(self, heading: str) -> str:
        """The text below a heading, up to the next heading of any level."""
        parts = re.split(r"^#+ (.+)$", self.text, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]

    def anchors(self) -> set[str]:
        """The fragments that links to this page may have."""
        return {_slug(each) for each in re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)}


def page(name: str) -> Page:
    """A page by its path within the project."""
    path = ROOT / name
    return Page(path, path.read_text(encoding="utf-8"))


def pages() -> list[Page]:
    """All pages that the project shows to people."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("loadtests/*.md")]
    return [page(path.relative_to(ROOT).as_posix()) for path in sorted(found)]


def _cell(text: str) -> str:
    return text.strip().replace("\\|", "|").removeprefix("`").removesuffix("`")


def _slug(heading: str) -> str:
    """As the usual renderers make a fragment of a heading."""
    kept = [
        letter
        for letter in heading.lower()
        if letter in " -_" or unicodedata.category(letter)[0] in "LN"
    ]
    return "".join(kept).replace(" ", "-")

"""A strict YAML document: what it refuses, and whether a person could act on the message."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway import document
from gateway.errors import RecipeError, SettingsError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Oven(_Part):
    """A part of a part."""

    degrees: int = Field(default=200, ge=50)
    minutes: float | None = None


class Cake(_Part):
    """A document to read."""

    name: str
    oven: Oven = Oven()
    layers: tuple[Oven, ...] = ()
    shelves: dict[str, Oven] = {}

    @model_validator(mode="after")
    def _edible(self) -> Cake:
        if self.name == "mud":
            raise ValueError("nobody eats that")
        return self


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cake.yaml"


def refused(path: Path, text: str | bytes) -> str:
    """Why the document is refused."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as problem:
        document.read(path, Cake, SettingsError)
    assert str(path) in problem.value.message
    assert problem.value.mend
    return problem.value.message


def test_a_document_becomes_its_model(path: Path) -> None:
    path.write_text("# a comment\nname: Sacher\noven: {degrees: 180}\nlayers: [{minutes: 5}]\n")
    cake = document.read(path, Cake, SettingsError)
    assert cake == Cake(name="Sacher", oven=Oven(degrees=180), layers=(Oven(minutes=5.0),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("- a\n- b\n", "not a mapping of keys"),
        ("just words\n", "not a mapping of keys"),
    ],
)
def test_a_document_without_keys_is_refused(path: Path, text: str, said: str) -> None:
    assert refused(path, text) == f"{path}: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [1\n", "not YAML"),
        ("name: a\n\tb: c\n", "line 2"),
        ("name: a\nname: b\n", "the key 'name' is written twice"),
        ("oven:\n  degrees: 1\n  degrees: 2\n", "the key 'degrees' is written twice"),
        ("name: {{ cake }}\n", "a key must be plain text"),
        ("? [a, b]\n: c\n", "a key must be plain text"),
        ("name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("base: &b {degrees: 1}\noven:\n  <<: *b\n", "could not determine a constructor"),
        ("name: a\x00b\n", "special characters are not allowed"),
        ("[" * 2_000, "not YAML"),
        (b"name: \xff\xfe\n", "not YAML"),
    ],
)
def test_what_is_not_strict_yaml_is_refused(path: Path, text: str | bytes, said: str) -> None:
    assert said in refused(path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("oven: {}\n", "name: this key is required"),
        ("name: 5\n", "name: Input should be a valid string (it is 5)"),
        (
            "name: a\noven: {degrees: 20}\n",
            "oven.degrees: Input should be greater than or equal to 50 (it is 20)",
        ),
        ("name: a\nnmae: b\n", "nmae: unknown key; did you mean 'name'?"),
        ("name: a\nzzz: b\n", "zzz: unknown key"),
        ("name: a\noven: {degree: 1}\n", "oven.degree: unknown key; did you mean 'degrees'?"),
        ("name: a\nlayers: [{}, {minuets: 1}]\n", "layers.1.minuets: unknown key; did you mean"),
        ("name: a\nshelves: {top: {degres: 1}}\n", "shelves.top.degres: unknown key; did you"),
        ("name: mud\n", "the document: nobody eats that"),
        ("name: a\n1: 2\n", "1: "),
    ],
)
def test_a_mistake_names_its_key_and_what_is_wrong(path: Path, text: str, said: str) -> None:
    assert f"{path}: {said}" in refused(path, text)


def test_all_mistakes_come_at_once_a_line_each(path: Path) -> None:
    lines = refused(path, "oven: {degrees: hot}\nlayers: 5\nfoo: 1\n").splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"{path}: ") for line in lines)


def test_a_file_that_cannot_be_read_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file") as missing:
        document.load(path, RecipeError)
    assert missing.value.mend == "name a file that exists and can be read"
    with pytest.raises(RecipeError, match="Is a directory"):
        document.load(tmp_path, RecipeError)


def test_a_file_that_is_far_too_large_is_not_parsed(path: Path) -> None:
    path.write_text("#" * 1_000_001)
    with pytest.raises(SettingsError, match="1000001 bytes is no settings file"):
        document.load(path, SettingsError)


def test_a_mapping_from_elsewhere_names_where_it_is_from() -> None:
    with pytest.raises(RecipeError, match="the form: name: this key is required"):
        document.validate({}, Cake, RecipeError, where="the form")


def test_a_date_that_no_calendar_has_is_not_yaml(path: Path) -> None:
    assert "not YAML: month must be in 1..12" in refused(path, "name: 2024-13-45\n")

"""Pretrained weights: a local folder, or the carried MiniLM with the weights as published."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from distill import pretrained
from gateway.errors import RecipeError

FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "bases" / "mine"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(name)
    return folder


def test_a_folder_beside_the_recipe_is_found(base: Path, tmp_path: Path) -> None:
    found = pretrained.find("bases/mine", tmp_path)
    assert (found.name, found.folder) == ("mine", base)
    assert found.sha256 == hashlib.sha256(b"model.safetensors").hexdigest()
    assert found.tokenizer == b"tokenizer.json"


def test_an_absolute_folder_is_found(base: Path) -> None:
    assert pretrained.find(str(base), Path("elsewhere")).folder == base


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_lacks_a_file_is_refused(base: Path, tmp_path: Path, name: str) -> None:
    (base / name).unlink()
    with pytest.raises(RecipeError, match=f"teacher.base: .*mine has no {name}") as refused:
        pretrained.find("bases/mine", tmp_path)
    assert "`minilm`" in refused.value.mend


def test_the_carried_minilm_is_found_and_its_weights_are_those_published(tmp_path: Path) -> None:
    found = pretrained.find("minilm", tmp_path)
    assert found.name == "all-MiniLM-L6-v2"
    assert found.sha256.startswith("53aa51172d14")
    assert all((found.folder / name).is_file() for name in FILES)


def test_other_weights_than_published_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_MINILM_SHA256", "0" * 64)
    with pytest.raises(RecipeError, match=r"other weights than published \(53aa51172d14\)"):
        pretrained.find("minilm", tmp_path)


def test_a_minilm_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_such_package_here")
    with pytest.raises(RecipeError, match="minilm is not installed") as refused:
        pretrained.find("minilm", tmp_path)
    assert "pip install" in refused.value.mend

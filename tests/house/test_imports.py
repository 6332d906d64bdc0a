"""The gateway runs without what only training needs: importing all of it loads none of that."""

from __future__ import annotations

import json
import subprocess
import sys

# alembic alone can import a migration environment; it runs when it is imported.
_PROGRAM = """
import importlib, json, pkgutil, sys
import gateway
names = [
    module.name
    for module in pkgutil.walk_packages(gateway.__path__, "gateway.")
    if module.name not in ("gateway.store.migrations.env", "gateway.__main__")
]
for name in names:
    importlib.import_module(name)
json.dump({"imported": names, "loaded": sorted(sys.modules)}, sys.stdout)
"""

_OFFLINE = {
    "torch", "onnx", "onnxscript", "transformers", "sklearn", "scipy", "pandas", "pyarrow",
    "accelerate", "matplotlib", "exporters", "distill",
}  # fmt: skip


def test_importing_every_module_of_the_gateway_loads_no_offline_library() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert {"gateway.app", "gateway.cli", "gateway.store.writer"} <= set(found["imported"])
    assert set(found["loaded"]) & _OFFLINE == set()

"""LitServe: workers and HTTP servers in processes of their own, one of each a core.

Its batching is left off: on processor cores it costs more than it saves.
"""

import os
from collections.abc import Mapping
from typing import Any

import litserve  # type: ignore[import-not-found]
from model import PORT, WORKERS, Model  # type: ignore[import-not-found]


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One model in each worker."""

    def setup(self, device: str) -> None:
        """In the worker, before its first request."""
        del device
        self.model = Model.of_environment()

    def decode_request(self, request: Mapping[str, Any]) -> list[str]:
        """A body -> its texts."""
        return list(request["texts"])

    def predict(self, x: list[str]) -> list[Any]:
        """The texts of one request -> their answers."""
        return list(self.model.answer(x))

    def encode_response(self, output: list[Any]) -> dict[str, list[Any]]:
        """Answers -> a reply."""
        return {"answers": output}


if __name__ == "__main__":
    cores = int(os.environ[WORKERS])
    server = litserve.LitServer(
        Api(api_path="/predict"), accelerator="cpu", workers_per_device=cores, timeout=30
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ[PORT]),
        num_api_servers=cores,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )

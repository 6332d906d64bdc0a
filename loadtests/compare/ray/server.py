"""Ray Serve: an HTTP proxy, and one replica a core."""

import os
import signal
from typing import Any

import ray  # type: ignore[import-not-found]
from model import BUNDLE, PORT, WORKERS, Model  # type: ignore[import-not-found]
from ray import serve
from starlette.requests import Request

_IN_FLIGHT = 256  # requests that one replica may hold
_STORE = 200 * 2**20  # bytes; nothing large goes through the object store


@serve.deployment(
    num_replicas=int(os.environ.get(WORKERS, "1")),
    max_ongoing_requests=_IN_FLIGHT,
    ray_actor_options={"num_cpus": 0.5},
)
class Student:
    """One model in each replica."""

    def __init__(self) -> None:
        self.model = Model.of_environment()

    async def __call__(self, request: Request) -> dict[str, list[Any]]:
        """Answer one request."""
        return {"answers": self.model.answer((await request.json())["texts"])}


if __name__ == "__main__":
    cores = int(os.environ[WORKERS])
    places = {name: os.environ[name] for name in (BUNDLE, "PYTHONPATH")}
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=_STORE,
        runtime_env={"env_vars": places},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ[PORT])})
    serve.run(Student.bind(), route_prefix="/predict")  # type: ignore[attr-defined]
    signal.pause()

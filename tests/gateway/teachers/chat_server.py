"""A small real server of `/v1/chat/completions`: it answers what a test tells it, and remembers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

Body = dict[str, Any]
Reply = tuple[int, Any]  # status, body

_REQUEST = TypeAdapter(CompletionCreateParamsNonStreaming)
_USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def completion(
    said: Mapping[str, Any] | str | None,
    *,
    finish: str = "stop",
    refusal: str | None = None,
    logs: Sequence[tuple[str, float]] | None = None,
    usage: Mapping[str, int] | None = _USAGE,
) -> Reply:
    """A reply in the very shape of the `openai` package, whose models check it.

    `logs` are the tokens with their log-probabilities.
    """
    content = orjson.dumps(said).decode() if isinstance(said, Mapping) else said
    entries = [
        {"token": token, "logprob": log, "bytes": list(token.encode()), "top_logprobs": []}
        for token, log in logs or ()
    ]
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": content, "refusal": refusal},
        "logprobs": {"content": entries, "refusal": None} if logs else None,
    }
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    ChatCompletion.model_validate(body, strict=True)
    return 200, body


class ChatServer:
    """Answers by `reply`, which is given each request's body. `bodies` and `keys` are what came.

    `headers` go with every answer.
    """

    def __init__(self, reply: Callable[[Body], Reply]) -> None:
        self.bodies: list[Body] = []
        self.keys: list[str | None] = []
        self.headers: dict[str, str] = {}
        self._reply = reply
        self._lock = threading.Lock()
        whole = self

        class Asked(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                whole._answer(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Its address, up to /v1."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def _answer(self, asked: BaseHTTPRequestHandler) -> None:
        body = orjson.loads(asked.rfile.read(int(asked.headers["content-length"])))
        _REQUEST.validate_python(body)
        with self._lock:  # replies are told in the order in which requests came
            self.bodies.append(body)
            self.keys.append(asked.headers["authorization"])
            status, said = self._reply(body) if asked.path == "/v1/chat/completions" else (404, {})
        content = orjson.dumps(said)
        asked.send_response(status)
        asked.send_header("content-type", "application/json")
        asked.send_header("content-length", str(len(content)))
        for name, value in self.headers.items():
            asked.send_header(name, value)
        with suppress(ConnectionError):  # a caller may have left: another of its samples failed
            asked.end_headers()
            asked.wfile.write(content)

    @contextmanager
    def running(self) -> Iterator[ChatServer]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

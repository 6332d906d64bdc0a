"""Clients that people already have, against a real process: tritonclient, openai, a TEI shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from tritonclient.utils import InferenceServerException

from gateway.api.auth import new_key
from gateway.contract.manifest import Head, HeadKind, Task
from tests.acceptance.process import TIMEOUT_S, Process
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle

pytestmark = pytest.mark.acceptance

KEY, DIGEST = new_key("shop")
CHIEF, CHIEF_DIGEST = new_key("chief")
CATEGORY = Task(
    name="mail",
    heads=(
        Head(
            name="category",
            kind=HeadKind.CHOICE,
            labels=("refund", "fraud", "other", "urgent", "legal"),
        ),
    ),
)
AS_ADMIN = {"Authorization": f"Bearer {CHIEF}"}
AS_CLIENT = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Two tasks, of two heads and of one; its teachers say "other", and it wants keys."""
    folder = tmp_path_factory.mktemp("gateway")
    bundles = {
        "tickets": tiny_bundle(folder / "bundles"),
        "mail": tiny_bundle(folder / "bundles", task=CATEGORY),
    }
    said = {"tickets": {"intent": "other"}, "mail": {"category": "other"}}
    path = settings_file(
        folder,
        tasks={
            name: {
                "student": {"bundle": str(bundle), "workers": 1},
                "teacher": {"scripted": {"labels": said[name]}},
                "audit": {"share": 0.0},
            }
            for name, bundle in bundles.items()
        },
        keys=[
            {"name": "shop", "sha256": DIGEST},
            {"name": "chief", "sha256": CHIEF_DIGEST, "role": "admin"},
        ],
    )
    with closing(Process(path)) as process:
        yield process


def tensor(module: Any, texts: Sequence[str], *, binary: bool) -> Any:
    """The input tensor of texts."""
    found = module.InferInput("text", [len(texts)], "BYTES")
    found.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_), binary)
    return found


def test_the_client_of_the_hugging_face_hub_gets_labels_with_scores(
    gateway: Process,
) -> None:
    client = InferenceClient(model=f"{gateway.url}/predict?task=tickets", token=KEY)
    found = client.text_classification(CONFIDENT)
    assert [each.label for each in found] == ["refund", "other", "fraud"]
    assert found[0].score == pytest.approx(0.9975, abs=1e-3)
    with pytest.raises(HfHubHTTPError, match=r"parameters\.top_k: not offered"):
        client.text_classification(CONFIDENT, top_k=1)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_gets_labels_by_tensor(gateway: Process, *, binary: bool) -> None:
    with closing(triton.InferenceServerClient(gateway.url.removeprefix("http://"))) as client:
        found = client.infer(
            "tickets",
            [tensor(triton, [CONFIDENT, UNSURE, "urgent fraud né"], binary=binary)],
            outputs=[
                triton.InferRequestedOutput(name, binary_data=binary)
                for name in ("intent", "flags", "score", "route")
            ],
            request_id="q-1",
            headers=dict(AS_CLIENT),
        )
    assert _texts(found.as_numpy("intent")) == ["refund", "other", "fraud"]
    assert [json.loads(each) for each in _texts(found.as_numpy("flags"))] == [[], [], ["urgent"]]
    assert _texts(found.as_numpy("route")) == ["student", "teacher", "student"]
    scores = found.as_numpy("score")
    assert (scores.dtype, scores.shape) == (np.float32, (3,))
    assert scores[0] == pytest.approx(0.9968, abs=1e-3)
    assert found.get_response()["id"] == "q-1"


def test_tritonclient_gets_every_output_where_it_names_none(gateway: Process) -> None:
    with closing(triton.InferenceServerClient(gateway.url.removeprefix("http://"))) as client:
        about = client.get_model_metadata("tickets", headers=dict(AS_CLIENT))
        found = client.infer(
            "tickets",
            [tensor(triton, ["fraud"], binary=True)],
            model_version=about["versions"][0],
            headers=dict(AS_CLIENT),
            timeout=30_000_000,
            parameters={"route": "teacher"},
        )
    assert found.get_response()["model_version"] == about["versions"][0]
    for output in about["outputs"]:
        assert found.as_numpy(output["name"]).shape == (1,)
    assert _texts(found.as_numpy("reason")) == ["requested"]


def test_tritonclient_sees_what_is_ready_and_what_is_wrong(gateway: Process) -> None:
    with closing(triton.InferenceServerClient(gateway.url.removeprefix("http://"))) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        known = dict(AS_CLIENT)
        assert client.get_server_metadata(headers=known)["name"] == "understudy"
        assert client.is_model_ready("mail", headers=known)
        assert not client.is_model_ready("mail", "7", headers=known)
        assert not client.is_model_ready("mail")  # without a key
        index = client.get_model_repository_index(headers=known)
        assert [(each["name"], each["state"]) for each in index] == [
            ("tickets", "READY"),
            ("mail", "READY"),
        ]
        with pytest.raises(InferenceServerException, match="name one of: tickets, mail") as caught:
            client.infer("news", [tensor(triton, ["a"], binary=True)], headers=known)
        assert caught.value.status() == "404"
        packed = {"request_compression_algorithm": "gzip", "headers": known}
        with pytest.raises(InferenceServerException, match="encoded as"):
            client.infer("mail", [tensor(triton, ["a"], binary=True)], **packed)


def test_tritonclient_loads_only_with_the_role_admin(gateway: Process) -> None:
    with closing(triton.InferenceServerClient(gateway.url.removeprefix("http://"))) as client:
        client.load_model("tickets", headers=dict(AS_ADMIN))
        serving = client.get_model_metadata("tickets", headers=dict(AS_ADMIN))["versions"][0]
        client.load_model("tickets", headers=dict(AS_ADMIN), query_params={"bundle": serving})
        with pytest.raises(InferenceServerException, match="role admin"):
            client.load_model("tickets", headers=dict(AS_CLIENT))
        with pytest.raises(InferenceServerException, match="load another bundle"):
            client.unload_model("tickets", headers=dict(AS_ADMIN))


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_aio_does_the_same(gateway: Process, *, binary: bool) -> None:
    async def ask() -> list[str]:
        url = gateway.url.removeprefix("http://")
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_server_ready()
            assert await client.get_model_repository_index(headers=dict(AS_CLIENT))
            await client.load_model("mail", headers=dict(AS_ADMIN))
            wanted = [triton_aio.InferRequestedOutput("category", binary_data=binary)]
            asked = [
                client.infer(
                    "mail",
                    [tensor(triton_aio, [text], binary=binary)],
                    outputs=wanted,
                    headers=dict(AS_CLIENT),
                )
                for text in ("refund", "fraud")
            ]
            found = await asyncio.gather(*asked)
            return [_texts(each.as_numpy("category"))[0] for each in found]

    assert asyncio.run(ask()) == ["refund", "fraud"]


@pytest.fixture
def client(gateway: Process) -> Iterator[openai.OpenAI]:
    """OpenAI's client, moved here by its address and key alone."""
    url = f"{gateway.url}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=TIMEOUT_S) as found:
        yield found


def test_openai_classifies_a_chat(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="mail",
        temperature=0.0,
        messages=[
            {"role": "system", "content": "Say what the mail is about."},
            {"role": "user", "content": "a refund, please"},
        ],
    )
    assert found.choices[0].message.content == "refund"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 1)
    assert found.model_extra is not None
    assert found.model_extra["understudy"]["route"] == "student"
    assert found._request_id


def test_openai_gets_json_and_the_teacher_where_it_asks(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="tickets",
        messages=[{"role": "user", "content": [{"type": "text", "text": "urgent fraud"}]}],
        response_format={"type": "json_object"},
        extra_body={"understudy": {"route": "teacher"}},
    )
    said = found.choices[0].message.content
    assert said is not None
    assert json.loads(said) == {"intent": "other", "flags": []}
    assert found.system_fingerprint == "scripted"


def test_openai_reads_the_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="mail",
        messages=[{"role": "user", "content": "fraud"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    said = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert said == ["", "fraud", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[2].choices[0].finish_reason == "stop"
    assert chunks[3].usage is not None
    assert chunks[3].usage.total_tokens == 2


def test_openai_moderates_texts(client: openai.OpenAI) -> None:
    found = client.moderations.create(input=["my lawyer writes", "please refund"])
    assert [result.flagged for result in found.results] == [True, False]
    assert found.results[0].categories.to_dict() == {"urgent": False, "legal": True}
    assert found.results[0].category_scores.to_dict()["legal"] == pytest.approx(0.9997, abs=1e-4)


def test_openai_lists_the_tasks(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tickets", "mail"]
    assert client.models.retrieve("mail").owned_by == "understudy"


def test_openai_raises_its_own_errors(client: openai.OpenAI, gateway: Process) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=[{"role": "user", "content": "a"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as several:
        client.chat.completions.create(
            model="mail", n=2, messages=[{"role": "user", "content": "a"}]
        )
    assert several.value.param == "n"
    with pytest.raises(openai.BadRequestError, match="has no head of flags"):
        client.moderations.create(model="mail", input="a")
    stranger = client.with_options(api_key="us_nobody")
    with pytest.raises(openai.AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
    assert gateway.log.count("a request failed") == 0


def test_openai_async_asks_and_streams(gateway: Process) -> None:
    async def ask() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S
        ) as client:
            whole = await client.chat.completions.create(
                model="mail", messages=[{"role": "user", "content": "refund"}]
            )
            stream = await client.chat.completions.create(
                model="mail", messages=[{"role": "user", "content": "fraud"}], stream=True
            )
            pieces = [
                choice.delta.content or "" async for chunk in stream for choice in chunk.choices
            ]
            flags = await client.moderations.create(model="tickets", input="urgent")
            assert flags.results[0].flagged
            return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(ask()) == ("refund", "fraud")


def test_openai_is_told_where_nobody_answers(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        teacher={"scripted": {"fail_every": 1}},
        policy={"on_unavailable": "abstain"},
    )
    with (
        closing(Process(path)) as process,
        openai.OpenAI(
            base_url=f"{process.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
        ) as client,
        pytest.raises(openai.InternalServerError) as nobody,
    ):
        client.chat.completions.create(
            model="tickets", messages=[{"role": "user", "content": UNSURE}], stream=True
        )
    assert (nobody.value.status_code, nobody.value.code) == (503, "unanswered")


def test_a_client_of_text_embeddings_inference_moves_by_its_address(gateway: Process) -> None:
    with httpx2.Client(base_url=gateway.url, headers=AS_CLIENT, timeout=TIMEOUT_S) as client:
        assert client.get("/health").status_code == 200
        limits = client.get("/info", params={"task": "mail"}).json()
        assert limits["max_client_batch_size"] == 256
        (best, *_) = client.post("/predict?task=mail", json={"inputs": "fraud"}).json()
        assert best["label"] == "fraud"
        batch = {"inputs": [["refund"], ["fraud"]], "raw_scores": False, "truncate": False}
        found = client.post("/predict?task=mail", json=batch).json()
        assert [each[0]["label"] for each in found] == ["refund", "fraud"]
        refused = client.post("/predict?task=mail", json={"inputs": [["a", "b"]]})
        assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")


def _texts(values: Any) -> list[str]:
    """A BYTES tensor as text; it is bytes where it came as such."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]

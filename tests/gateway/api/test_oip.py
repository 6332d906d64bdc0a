"""The Open Inference Protocol on a real gateway: tensors as JSON and as bytes, versions, errors."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.api import shapes
from gateway.api.auth import new_key
from gateway.app import build_admin
from gateway.contract.manifest import Head, HeadKind, Task
from tests.conftest import Client, Opener
from tests.factories import CONFIDENT, TASK, UNSURE, tiny_bundle

INFER = "/v2/models/tickets/infer"
LOAD = "/v2/repository/models/tickets/load"
OUTPUTS = ["intent", "flags", "confidence.intent", "confidence.flags", "score", "route", "reason"]


def question(*texts: Any, **more: Any) -> dict[str, Any]:
    """A request for texts as JSON."""
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return {"inputs": [tensor], **more}


def packed(*texts: bytes) -> bytes:
    """A BYTES tensor in its binary form."""
    return b"".join(struct.pack("<I", len(each)) + each for each in texts)


def binary(
    client: Client, data: bytes, rows: int, *, size: Any = None, tail: bytes = b"", **more: Any
) -> Any:
    """Send binary data behind the JSON that claims it."""
    tensor = {
        "name": "text",
        "shape": [rows],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data) if size is None else size},
    }
    head = json.dumps({"inputs": [tensor], **more}).encode()
    headers = {
        "inference-header-content-length": str(len(head)),
        "content-type": "application/octet-stream",
    }
    return client.post(INFER, content=head + data + tail, headers=headers)


def values(reply: Any) -> dict[str, list[Any]]:
    """The data of each output of a reply in JSON."""
    assert reply.status_code == 200, reply.text
    shapes.OipReply.model_validate(reply.json())
    return {each["name"]: each["data"] for each in reply.json()["outputs"]}


def added(client: Client, folder: Path, **about: Any) -> str:
    """The name of another bundle that the registry holds."""
    path = tiny_bundle(folder / "more", **about)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(path, arcname=path.name)
    kind = {"content-type": "application/x-tar"}
    reply = client.post("/admin/v1/students", content=packed.getvalue(), headers=kind)
    assert reply.status_code == 201, reply.text
    name: str = reply.json()["bundle"]
    return name


def error(reply: Any, status: int) -> str:
    """What an error says."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    return shapes.OipError.model_validate(reply.json()).error


def test_each_head_has_its_tensor_and_the_route_stands_beside_it(client: Client) -> None:
    reply = client.post(INFER, json=question("urgent refund", UNSURE, id="q-1"))
    found = values(reply)
    assert list(found) == OUTPUTS
    assert found["intent"] == ["refund", "other"]  # the scripted teacher says "other"
    assert found["flags"] == ['["urgent"]', "[]"]
    assert found["route"] == ["student", "teacher"]
    assert found["reason"] == ["confident", "low_confidence"]
    assert found["confidence.intent"][0] == pytest.approx(0.9975, abs=1e-3)
    assert found["score"][1] == 1.0
    said = reply.json()
    assert (said["id"], said["model_name"]) == ("q-1", "tickets")
    assert said["model_version"] == client.gateway.tasks["tickets"].rung.student.student.bundle.name
    assert [each["shape"] for each in said["outputs"]] == [[2]] * 7


def test_the_headers_say_who_answered_and_what_was_recorded(client: Client) -> None:
    headers = client.post(INFER, json=question(CONFIDENT, UNSURE)).headers
    assert headers["x-understudy-route"] == "student, teacher"
    assert headers["x-understudy-reason"] == "confident, low_confidence"
    assert headers["understudy-record"] == "queued"
    assert headers["server-timing"].startswith("queue;dur=")


def test_a_request_without_an_id_gets_none(client: Client) -> None:
    assert "id" not in client.post(INFER, json=question("a")).json()


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("data", [["refund", "fraud"], [["refund"], ["fraud"]]])
def test_a_text_stands_in_a_row_of_its_own_or_alone(
    client: Client, shape: list[int], data: list[Any]
) -> None:
    body = {"inputs": [{"name": "x", "shape": shape, "datatype": "BYTES", "data": data}]}
    assert values(client.post(INFER, json=body))["intent"] == ["refund", "fraud"]


def test_only_the_wanted_outputs_come_in_the_wanted_order(client: Client) -> None:
    wanted = [{"name": "route"}, {"name": "intent"}]
    reply = client.post(INFER, json=question("fraud", outputs=wanted))
    assert values(reply) == {"route": ["student"], "intent": ["fraud"]}
    assert list(values(client.post(INFER, json=question("a", outputs=[])))) == OUTPUTS


def test_texts_come_in_and_labels_go_out_as_bytes(client: Client) -> None:
    reply = binary(
        client,
        packed(b"refund", "fraud, né?".encode()),
        2,
        parameters={"binary_data_output": True},
        outputs=[
            {"name": "intent"},
            {"name": "route", "parameters": {"binary_data": False}},
            {"name": "score"},
        ],
    )
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers["inference-header-content-length"])
    intent, route, score = json.loads(reply.content[:length])["outputs"]
    assert intent == {
        "name": "intent",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"binary_data_size": 4 + 6 + 4 + 5},
    }
    assert route["data"] == ["student", "student"]
    assert score["parameters"] == {"binary_data_size": 8}
    rest = reply.content[length:]
    assert rest[:19] == packed(b"refund", b"fraud")
    assert struct.unpack("<2f", rest[19:]) == pytest.approx((0.9968, 0.9968), abs=1e-3)


def test_all_outputs_are_binary_where_the_request_says_so(client: Client) -> None:
    reply = client.post(INFER, json=question("a", parameters={"binary_data_output": True}))
    length = int(reply.headers["inference-header-content-length"])
    outputs = json.loads(reply.content[:length])["outputs"]
    assert [each["name"] for each in outputs] == OUTPUTS
    assert sum(each["parameters"]["binary_data_size"] for each in outputs) == len(
        reply.content[length:]
    )


@pytest.mark.parametrize(
    ("data", "rows", "size", "tail", "said"),
    [
        (packed(b"a"), 1, 4, b"", "4 bytes, 5 are there"),
        (packed(b"a"), 1, 6, b"", "6 bytes, 5 are there"),
        (packed(b"a"), 1, "5", b"", None),
        (packed(b"a"), 1, -1, b"", "-1 bytes, 5 are there"),
        (packed(b"a"), 1, None, b"x", "5 bytes, 6 are there"),
        (packed(b"a"), 2, None, b"", "1 elements, the shape says 2"),
        (packed(b"a", b"b"), 1, None, b"", "2 elements, the shape says 1"),
        (b"\x01\x00", 1, None, b"", "data[0]: it goes beyond the tensor's end"),
        (packed(b"a") + b"\xff\xff\xff\xff", 2, None, b"", "data[1]: it goes beyond"),
        (packed(b"\xff\xfe"), 1, None, b"", "data[0]: not UTF-8"),
        (packed(b""), 1, None, b"", "data[0]: empty"),
        (b"", 1, None, b"", "0 elements, the shape says 1"),
    ],
)
def test_binary_data_of_any_wrong_length_is_refused(
    client: Client, data: bytes, rows: int, size: Any, tail: bytes, said: str | None
) -> None:
    assert (said or "bytes") in error(binary(client, data, rows, size=size, tail=tail), 400)


@pytest.mark.parametrize("length", ["0", "-1", "999999", "x", "1e2", "²", "9" * 400])
def test_a_length_that_does_not_fit_the_body_is_refused(client: Client, length: str) -> None:
    headers = [(b"inference-header-content-length", length.encode())]
    reply = client.post(INFER, content=json.dumps(question("a")), headers=headers)
    assert "no length within" in error(reply, 400)


def test_bytes_that_no_tensor_claims_are_refused(client: Client) -> None:
    head = json.dumps(question("a")).encode()
    headers = {"inference-header-content-length": str(len(head))}
    reply = client.post(INFER, content=head + b"xyz", headers=headers)
    assert "3 bytes stand behind the JSON" in error(reply, 400)


def test_binary_data_without_the_header_is_refused(client: Client) -> None:
    body = question("a")
    body["inputs"][0]["parameters"] = {"binary_data_size": 5}
    assert "also has binary data" in error(client.post(INFER, json=body), 400)
    del body["inputs"][0]["data"]
    assert "no binary part" in error(client.post(INFER, json=body), 400)


def test_a_json_body_may_be_called_octets(client: Client) -> None:
    headers = {"content-type": "application/octet-stream"}
    reply = client.post(INFER, content=json.dumps(question("refund")), headers=headers)
    assert values(reply)["intent"] == ["refund"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([], 400, "no object"),
        ({}, 400, "inputs: not a list with one tensor"),
        ({"inputs": []}, 400, "inputs: not a list with one tensor"),
        ({"inputs": [{}, {}]}, 400, "inputs: not a list with one tensor"),
        ({"inputs": ["a"]}, 400, "not a tensor of datatype BYTES"),
        ({"inputs": [{"datatype": "FP32"}]}, 400, "not a tensor of datatype BYTES"),
        ({"inputs": [{"datatype": "BYTES"}]}, 400, "inputs[0].shape: not [n] or [n, 1]"),
        ({"inputs": [{"datatype": "BYTES", "shape": [1, 2]}]}, 400, "shape: not [n] or [n, 1]"),
        ({"inputs": [{"datatype": "BYTES", "shape": [True]}]}, 400, "shape: not [n] or [n, 1]"),
        ({"inputs": [{"datatype": "BYTES", "shape": [0]}]}, 400, "shape: not [n] or [n, 1]"),
        ({"inputs": [{"datatype": "BYTES", "shape": [1]}]}, 400, "data: not a list"),
        ({"inputs": [{"datatype": "BYTES", "shape": [257]}]}, 413, "257 texts, 256 are allowed"),
        (question("a", 5), 400, "data[1]: not a text"),
        (question(" "), 400, "data[0]: empty"),
        (question("a", id=5), 400, "id: not a name"),
        (question("a", parameters=[]), 400, "parameters: no object"),
        (question("a", parameters={"route": "x"}), 400, "parameters.route: not one"),
        (question("a", parameters={"deadline_ms": 0}), 400, "deadline_ms: not a time"),
        (question("a", parameters={"timeout": "1"}), 400, "timeout: not a time"),
        (question("a", parameters={"timeout": 3_600_000_001}), 400, "parameters.timeout: not a"),
        (question("a", parameters={"triton_x": 1}), 400, "parameters.triton_x: a reserved name"),
        (question("a", parameters={"mine": [1]}), 400, "parameters.mine: a list or an object"),
        (question("a", parameters={"sequence_id": 7}), 400, "students keep no state"),
        (question("a", parameters={"binary_data_output": 1}), 400, "binary_data_output: not true"),
        (question("a", outputs={}), 400, "outputs: not a list"),
        (question("a", outputs=["intent"]), 400, "outputs[0].name: not a name"),
        (question("a", outputs=[{"name": "x"}]), 400, "no output 'x'"),
        (
            question("a", outputs=[{"name": "intent", "parameters": {"classification": 2}}]),
            400,
            "classification and shared memory",
        ),
    ],
)
def test_a_request_of_another_shape_is_refused_and_the_place_named(
    client: Client, body: Any, status: int, said: str
) -> None:
    assert said in error(client.post(INFER, json=body), status)


def test_more_texts_than_allowed_or_no_json_are_refused(client: Client) -> None:
    assert "not JSON" in error(client.post(INFER, content=b"{"), 400)
    headers = {"content-type": "text/plain"}
    assert "text/plain" in error(client.post(INFER, content=b"{}", headers=headers), 415)


def test_the_caller_may_name_a_route_and_a_deadline(client: Client) -> None:
    asked = question(CONFIDENT, parameters={"route": "teacher"})
    assert values(client.post(INFER, json=asked))["reason"] == ["requested"]
    for parameters in ({"deadline_ms": 0.0001}, {"timeout": 1}):
        late = client.post(INFER, json=question("a", parameters=parameters))
        assert "deadline" in error(late, 504)
    patient = {"timeout": 0, "priority": 1}
    assert values(client.post(INFER, json=question("a", parameters=patient)))["route"]


def test_a_client_may_send_plain_parameters_of_its_own(client: Client) -> None:
    own = {"mine": "x", "n": 1, "f": 0.5, "b": True, "triton_enable_empty_final_response": False}
    asked = question(CONFIDENT, parameters=own | {"route": "teacher"})
    assert values(client.post(INFER, json=asked))["reason"] == ["requested"]


def test_what_nobody_answered_is_said_by_its_route(serve: Opener) -> None:
    client = serve(teacher={"scripted": {"fail_every": 1}}, policy={"on_unavailable": "abstain"})
    found = values(client.post(INFER, json=question(UNSURE, CONFIDENT)))
    assert found["route"] == ["abstain", "student"]
    assert (found["intent"], found["flags"]) == (["", "refund"], ["", "[]"])
    assert found["score"][0] == found["confidence.intent"][0] == 0.0


def test_a_version_is_the_bundle_that_serves_and_no_other(client: Client) -> None:
    serving = client.gateway.tasks["tickets"].rung.student.student.bundle.name
    path = f"/v2/models/tickets/versions/{serving}"
    assert client.get(path).json() == client.get("/v2/models/tickets").json()
    assert values(client.post(f"{path}/infer", json=question("fraud")))["intent"] == ["fraud"]
    assert client.get(f"{path}/ready").json() == {"name": "tickets", "ready": True}
    for reply in (
        client.get("/v2/models/tickets/versions/1"),
        client.get("/v2/models/tickets/versions/1/ready"),
        client.post("/v2/models/tickets/versions/1/infer", json=question("a")),
    ):
        assert serving in error(reply, 404)


def test_a_model_that_is_not_there_is_not_found(client: Client) -> None:
    assert "name one of: tickets" in error(client.get("/v2/models/mail"), 404)
    assert "tickets" in error(client.post("/v2/models/mail/infer", json=question("a")), 404)


def test_a_model_shows_its_tensors(client: Client) -> None:
    found = shapes.OipModel.model_validate(client.get("/v2/models/tickets").json())
    assert [(each.name, each.datatype, each.shape) for each in found.inputs] == [
        ("text", "BYTES", [-1])
    ]
    assert [each.name for each in found.outputs] == OUTPUTS
    assert [each.datatype for each in found.outputs] == ["BYTES"] * 2 + ["FP32"] * 3 + ["BYTES"] * 2


def test_a_head_that_is_called_like_an_output_of_ours_stands_in_its_place(
    serve: Opener, tmp_path: Path
) -> None:
    route = Head(name="route", kind=HeadKind.CHOICE, labels=TASK.heads[0].labels)
    student = tiny_bundle(tmp_path, task=Task(name="tickets", heads=(route, TASK.heads[1])))
    client = serve(student=student, teacher={"scripted": {}})
    assert values(client.post(INFER, json=question("fraud")))["route"] == ["fraud"]


def test_the_server_says_what_it_is_and_offers(client: Client) -> None:
    found = shapes.OipServer.model_validate(client.get("/v2").json())
    assert (found.name, found.version) == ("understudy", __version__)
    assert "binary_tensor_data" in found.extensions


def test_probes_need_no_key_and_say_when_the_gateway_leaves(serve: Opener) -> None:
    client = serve(keys=[{"name": "shop", "sha256": "0" * 64}])
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert "no key" in error(client.get("/v2/models/tickets/ready"), 401)
    client.gateway.draining = True
    assert "shutting down" in error(client.get("/v2/health/ready"), 503)
    assert client.get("/v2/health/live").status_code == 200


def test_a_worker_that_has_ended_is_neither_live_nor_ready(client: Client) -> None:
    client.end_student()
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tickets/ready"):
        assert "a worker has ended" in error(client.get(path), 503)
    (entry,) = client.post("/v2/repository/index").json()
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "a worker has ended")
    assert client.post("/v2/repository/index", json={"ready": True}).json() == []


def test_the_index_lists_what_serves_and_leaves_out_what_is_leaving(client: Client) -> None:
    index = "/v2/repository/index"
    (entry,) = client.post(index).json()
    shapes.OipIndexEntry.model_validate(entry)
    assert (entry["name"], entry["state"]) == ("tickets", "READY")
    assert client.post(index, json={"ready": True}).json() == [entry]
    client.gateway.draining = True
    assert client.post(index, json={}).json()[0]["state"] == "UNAVAILABLE"
    assert client.post(index, json={"ready": True}).json() == []
    assert "shutting down" in error(client.get("/v2/models/tickets/ready"), 503)
    assert "ready: not true or false" in error(client.post(index, json={"ready": 1}), 400)


def test_another_bundle_is_loaded_and_the_old_version_is_gone(
    serve: Opener, tmp_path: Path
) -> None:
    client = serve()
    old = client.get("/v2/models/tickets").json()["versions"][0]
    other = added(client, tmp_path, bias={"fraud": 20.0})
    assert client.post(LOAD).status_code == 200  # what serves is loaded already
    assert client.get("/v2/models/tickets").json()["versions"] == [old]
    for say in ({"json": {"parameters": {"bundle": other}}}, {"params": {"bundle": old}}):
        assert client.post(LOAD, **say).content == b""
        found = client.post(INFER, json=question("refund")).json()
        assert found["outputs"][0]["data"] == ["fraud" if "json" in say else "refund"]
        assert found["model_version"] == (other if "json" in say else old)
    assert old in error(client.get(f"/v2/models/tickets/versions/{other}"), 404)


def test_a_bundle_that_is_not_there_or_laid_over_is_not_loaded(client: Client) -> None:
    missing = client.post(LOAD, json={"parameters": {"bundle": "tickets-000000000000"}})
    assert "tickets-000000000000" in error(missing, 404)
    laid = client.post(LOAD, json={"parameters": {"config": "{}"}})
    assert "parameters.config" in error(laid, 400)
    assert "no task" in error(client.post("/v2/repository/models/mail/load"), 404)


def test_what_serves_cannot_be_unloaded(client: Client) -> None:
    reply = client.post("/v2/repository/models/tickets/unload", json={"parameters": {}})
    assert "load another bundle in its place" in error(reply, 409)


def test_only_an_admin_may_load(serve: Opener) -> None:
    key, digest = new_key("shop")
    chief, chief_digest = new_key("chief")
    client = serve(
        keys=[
            {"name": "shop", "sha256": digest},
            {"name": "chief", "sha256": chief_digest, "role": "admin"},
        ]
    )
    known = {"authorization": f"Bearer {key}"}
    assert client.post("/v2/repository/index", headers=known).status_code == 200
    assert "role admin" in error(client.post(LOAD, headers=known), 403)
    assert client.post(LOAD, headers={"authorization": f"Bearer {chief}"}).status_code == 200


def test_loading_belongs_to_the_address_of_administration(serve: Opener) -> None:
    client = serve(admin={"port": 0})
    assert "no such path" in error(client.post(LOAD), 404)
    assert client.post("/v2/repository/index").status_code == 200
    chief = Client(build_admin(client.gateway))
    chief.portal = client.portal
    assert chief.post(LOAD).status_code == 200
    assert chief.post(INFER, json=question("a")).status_code == 404


@pytest.mark.parametrize("path", [LOAD, LOAD.replace("load", "unload"), INFER])
def test_a_line_break_in_a_path_leads_nowhere_for_a_clients_key(serve: Opener, path: str) -> None:
    key, digest = new_key("shop")
    client = serve(keys=[{"name": "shop", "sha256": digest}])
    for end in ("%0A", "%0D", "%00", "%7F"):
        reply = client.post(path + end, headers={"x-api-key": key}, json=question("a"))
        assert "no such path" in error(reply, 404)


def test_a_page_of_another_site_may_not_load(serve: Opener) -> None:
    evil = {"origin": "https://evil.example"}
    assert "evil.example" in error(serve().post(LOAD, headers=evil), 403)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v2/nothing", 404), ("GET", INFER, 405), ("POST", "/v2", 405)],
)
def test_a_path_or_method_that_is_not_there_is_an_error_of_the_protocol(
    client: Client, method: str, path: str, status: int
) -> None:
    assert "no such path" in error(client.request(method, path), status)


def test_requests_and_refusals_are_counted(client: Client) -> None:
    client.post(INFER, json=question("a"))
    client.post(INFER, json={})
    shown = client.get("/metrics").text
    assert 'understudy_requests_total{code="200",route="student",task="tickets"} 1.0' in shown
    assert 'understudy_requests_total{code="400",route="none",task="other"} 1.0' in shown
    assert "understudy_inflight_requests 0.0" in shown

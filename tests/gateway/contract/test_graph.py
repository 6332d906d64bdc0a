"""The reader of ONNX structure, against what the onnx library writes and against rubbish."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gateway.contract.graph import Structure, structure
from gateway.errors import BundleError, BundleExternalData, BundleGraph, BundleOperator
from tests.factories import tiny_bundle


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (tiny_bundle(tmp_path_factory.mktemp("tiny")) / "model.onnx").read_bytes()


def field(number: int, content: bytes) -> bytes:
    """A field of wire type 2 of less than 128 bytes, as protobuf writes it."""
    tag = number << 3 | 2
    head = bytes([tag]) if tag < 128 else bytes([tag & 0x7F | 0x80, tag >> 7])
    return head + bytes([len(content)]) + content


def test_nodes_and_tensors_are_counted(tiny: bytes) -> None:
    assert structure(tiny, where="it") == Structure(nodes=7, tensors=5, depth=1)


def test_subgraphs_and_functions_are_counted_too(tiny: bytes) -> None:
    model = onnx.load_from_string(tiny)
    constant = helper.make_node(
        "Constant", [], ["one"], value=numpy_helper.from_array(np.ones(1, np.float32))
    )
    branch = helper.make_graph([constant], "branch", [], [])
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["any"], then_branch=branch, else_branch=branch)
    )
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("", "Extra", [], ["one"], [constant], opset))
    # 7 and 5 as they were; the If, a Constant in each branch and one in the function.
    found = structure(model.SerializeToString(), where="it")
    assert found == Structure(nodes=11, tensors=8, depth=2)


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"])
def test_operators_that_onnxruntime_brings_along_may_be_used(tiny: bytes, domain: str) -> None:
    model = onnx.load_from_string(tiny)
    model.graph.node[0].domain = domain
    structure(model.SerializeToString(), where="it")


@pytest.mark.parametrize("domain", ["ai.onnxruntime", "com.microsoft.evil", "é", "AI.ONNX"])
def test_an_operator_of_another_domain_is_refused(tiny: bytes, domain: str) -> None:
    model = onnx.load_from_string(tiny)
    model.graph.node[0].domain = domain
    with pytest.raises(BundleOperator, match="operators of the domain"):
        structure(model.SerializeToString(), where="it")


def test_a_second_part_of_the_graph_is_looked_at_as_well(tiny: bytes) -> None:
    """Protobuf merges the parts of a message; a reader that takes the first one is deceived."""
    tensor = field(8, b"far") + field(13, field(1, b"location") + field(2, b"secret"))
    with pytest.raises(BundleExternalData):
        structure(tiny + field(7, field(5, tensor)), where="it")


def test_a_location_is_seen_whatever_comes_after_it(tiny: bytes) -> None:
    """The last value of a field holds for protobuf; that one of them is external is enough."""
    tensor = bytes([14 << 3, 1, 14 << 3, 0])
    with pytest.raises(BundleExternalData):
        structure(tiny + field(7, field(5, tensor)), where="it")


def test_lengths_one_by_one_count_as_those_in_one_field(tiny: bytes) -> None:
    million = bytes([0x80, 0x80, 0x40])  # 2 ** 20 as a varint
    plain = bytes([1 << 3]) + million + bytes([1 << 3]) + million
    for tensor in (plain, field(1, million + million)):
        with pytest.raises(BundleGraph, match="more than 2147483648 elements"):
            structure(tiny + field(7, field(5, tensor)), where="it")


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",  # no graph
        b"\x00",  # field number 0
        b"\x3b",  # a group
        b"\x3a\x05ab",  # longer than the file
        b"\x09\x00",  # eight bytes that are not there
        b"\x0d\x00",  # four
        b"\x08" + b"\xff" * 11,  # a number without end
        b"\x3a",  # a length that is not there
    ],
)
def test_what_is_no_onnx_is_refused(rubbish: bytes) -> None:
    with pytest.raises(BundleGraph):
        structure(rubbish, where="it")


def test_a_file_of_very_many_fields_is_refused(
    tiny: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.contract.graph._FIELDS", 20)
    with pytest.raises(BundleGraph, match="more than 20 fields"):
        structure(tiny, where="it")


def test_whatever_the_bytes_are_the_answer_is_a_count_or_a_refusal(tiny: bytes) -> None:
    chance = random.Random(3)
    for _ in range(2000):
        content = bytearray(tiny)
        for _ in range(chance.randrange(1, 8)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        with suppress(BundleError):
            structure(bytes(content), where="it")


def test_a_model_of_external_data_as_the_library_saves_it_is_refused(
    tiny: bytes, tmp_path: Path
) -> None:
    model = onnx.load_from_string(tiny)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(BundleExternalData):
        structure(path.read_bytes(), where="it")


def test_a_sparse_initializer_of_plain_tensors_is_counted(tiny: bytes) -> None:
    model = onnx.load_from_string(tiny)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(helper.make_tensor("v", TensorProto.FLOAT, [2], [1.0, 2.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [2], [0, 3]))
    sparse.dims.append(8)
    assert structure(model.SerializeToString(), where="it").tensors == 7

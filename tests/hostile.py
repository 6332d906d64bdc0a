"""Archives that must never be taken in, each with the code of the error that refuses it.

Every one is made of the tiny bundle: what is wrong with it is the one thing that its name says.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from gateway.contract import bundle

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Parts:
    """A bundle taken apart: the name of its folder, and its files."""

    folder: str
    files: Files

    def but(self, **files: bytes) -> Parts:
        """The same with other bytes in files, whose dots are written as __."""
        changed = {name.replace("__", "."): content for name, content in files.items()}
        return Parts(self.folder, self.files | changed)

    def tar(self, *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
        """A plain tar archive, and `more` entries at its end."""
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in self.files.items():
                archive.addfile(entry(f"{self.folder}/{name}", content), io.BytesIO(content))
            for info, content in more:
                archive.addfile(info, io.BytesIO(content))
        return target.getvalue()

    def zip(self, *more: tuple[zipfile.ZipInfo | str, bytes], comment: bytes = b"") -> bytes:
        """A zip archive, and `more` entries at its end."""
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.files.items():
                archive.writestr(f"{self.folder}/{name}", content)
            for place, content in more:
                archive.writestr(place, content)
            archive.comment = comment
        return target.getvalue()


def parts_of(path: Path) -> Parts:
    """A bundle's folder, taken apart."""
    return Parts(path.name, {each.name: each.read_bytes() for each in sorted(path.iterdir())})


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, to: str = "") -> Any:
    """The header of a tar entry; `to` is where a link leads."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, to, len(content)
    return info


def sealed(parts: Parts, *, model: bytes | None = None, **changes: Any) -> Parts:
    """The bundle with another model or other keys in its manifest, hashed and named anew."""
    files = dict(parts.files)
    manifest = json.loads(files[bundle.MANIFEST]) | changes
    if model is not None:
        files[bundle.MODEL] = model
    for each in manifest["files"]:
        content = files[each["name"]]
        each["sha256"], each["size"] = hashlib.sha256(content).hexdigest(), len(content)
    raw = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    files[bundle.MANIFEST] = raw
    name = bundle.folder_name(manifest["task"]["name"], hashlib.sha256(raw).hexdigest())
    return Parts(name, files)


def graph(parts: Parts) -> ModelProto:
    """The bundle's model, to be changed."""
    return onnx.load_from_string(parts.files[bundle.MODEL])


def _ungolden(parts: Parts, model: ModelProto) -> Parts:
    """With another model and no golden vectors, which would tell first."""
    golden = {"tolerance": 0.01, "vectors": []}
    return sealed(parts, model=model.SerializeToString(), golden=golden)


def _link(kind: bytes) -> Callable[[Parts], bytes]:
    def build(parts: Parts) -> bytes:
        files = {name: content for name, content in parts.files.items() if name != bundle.CARD}
        place = f"{parts.folder}/{bundle.CARD}"
        return Parts(parts.folder, files).tar((entry(place, kind=kind, to="/etc/passwd"), b""))

    return build


def _also(name: str, *, kind: bytes = tarfile.REGTYPE) -> Callable[[Parts], bytes]:
    """With one more entry, below the folder where the name says {}."""

    def build(parts: Parts) -> bytes:
        content = b"more" if kind == tarfile.REGTYPE else b""
        return parts.tar((entry(name.format(parts.folder), content, kind), content))

    return build


def _long_header(parts: Parts) -> bytes:
    """With a comment of a mebibyte before the card: the reader of tars holds it as a whole."""
    info = entry(f"{parts.folder}/{bundle.CARD}", parts.files[bundle.CARD])
    info.pax_headers = {"comment": "x" * 2**20}
    files = {name: content for name, content in parts.files.items() if name != bundle.CARD}
    return Parts(parts.folder, files).tar((info, parts.files[bundle.CARD]))


def _long_name(parts: Parts) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(entry("x" * 2**20))
    return target.getvalue() + parts.tar()


def _many_headers(parts: Parts) -> bytes:
    """A file behind a thousand headers, each of them small."""
    header: bytes = entry("x", b"11 comment=", tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    return (header + b"11 comment=".ljust(512, b"\0")) * 1000 + parts.tar()


def _compressed(manner: int) -> Callable[[Parts], bytes]:
    def build(parts: Parts) -> bytes:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", manner) as archive:
            for name, content in parts.files.items():
                archive.writestr(f"{parts.folder}/{name}", content)
        return target.getvalue()

    return build


def _pax_path(parts: Parts) -> bytes:
    info = entry(f"{parts.folder}/x", b"more")
    info.pax_headers = {"path": "../outside"}
    return parts.tar((info, b"more"))


def _sparse(parts: Parts) -> bytes:
    info = entry(f"{parts.folder}/x", b"more")
    info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.size": "4", "GNU.sparse.map": "0,4"}
    return parts.tar((info, b"more"))


def _zip_link(parts: Parts) -> bytes:
    info = zipfile.ZipInfo(f"{parts.folder}/x")
    info.external_attr = 0o120777 << 16
    return parts.zip((info, b"/etc/passwd"))


def _zip_fifo(parts: Parts) -> bytes:
    info = zipfile.ZipInfo(f"{parts.folder}/x")
    info.external_attr = 0o010644 << 16
    return parts.zip((info, b""))


def _encrypted(parts: Parts) -> bytes:
    raw = bytearray(parts.zip())
    start = raw.index(b"PK\x01\x02")
    raw[start + 8] |= 1
    return bytes(raw)


def _bomb(parts: Parts) -> Parts:
    return parts.but(CARD__md=bytes(64 * 2**20))


def _external(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def _initializer(parts: Parts) -> Parts:
    model = graph(parts)
    _external(model.graph.initializer[0])
    return _ungolden(parts, model)


def _location_only(parts: Parts) -> Parts:
    model = graph(parts)
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return _ungolden(parts, model)


def _external_tensor() -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "far")
    _external(tensor)
    return tensor


def _attribute(parts: Parts) -> Parts:
    model = graph(parts)
    model.graph.node.append(helper.make_node("Constant", [], ["far"], value=_external_tensor()))
    return _ungolden(parts, model)


def _sparse_values(parts: Parts) -> Parts:
    model = graph(parts)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(_external_tensor())
    sparse.indices.CopyFrom(numpy_helper.from_array(np.arange(4), "where"))
    sparse.dims.append(8)
    return _ungolden(parts, model)


def _branch(node: NodeProto) -> NodeProto:
    """An If of which one branch is that node."""
    inner = helper.make_graph([node], "inner", [], [])
    return helper.make_node("If", ["yes"], ["any"], then_branch=inner, else_branch=inner)


def _subgraph(parts: Parts) -> Parts:
    model = graph(parts)
    constant = helper.make_node("Constant", [], ["far"], value=_external_tensor())
    model.graph.node.append(_branch(constant))
    return _ungolden(parts, model)


def _function(parts: Parts, node: NodeProto, domain: str = "") -> Parts:
    model = graph(parts)
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function(domain, "Extra", [], ["far"], [node], opset))
    return _ungolden(parts, model)


def _function_constant(parts: Parts) -> Parts:
    return _function(parts, helper.make_node("Constant", [], ["far"], value=_external_tensor()))


def _function_domain(parts: Parts) -> Parts:
    node = helper.make_node("Identity", ["a"], ["far"])
    return _function(parts, node, domain="evil")


def _operator(parts: Parts) -> Parts:
    model = graph(parts)
    model.graph.node.append(helper.make_node("Run", ["pooled"], ["any"], domain="evil.ops"))
    return _ungolden(parts, model)


def _opset(parts: Parts) -> Parts:
    model = graph(parts)
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))
    return _ungolden(parts, model)


def _deep(parts: Parts) -> Parts:
    model = graph(parts)
    node = helper.make_node("Identity", ["pooled"], ["any"])
    for _ in range(9):
        node = _branch(node)
    model.graph.node.append(node)
    return _ungolden(parts, model)


def _wide(parts: Parts) -> Parts:
    model = graph(parts)
    many = [helper.make_node("Identity", ["pooled"], [f"x{n}"]) for n in range(50_001)]
    model.graph.node.extend(many)
    return _ungolden(parts, model)


def _vast(parts: Parts) -> Parts:
    model = graph(parts)
    model.graph.initializer[0].dims[:] = [2**20, 2**20]
    return _ungolden(parts, model)


def _training(parts: Parts) -> Parts:
    model = graph(parts)
    model.training_info.add().algorithm.name = "step"
    return _ungolden(parts, model)


def _renamed_input(parts: Parts) -> Parts:
    model = graph(parts)
    model.graph.input[0].name = "tokens"
    for node in model.graph.node:
        node.input[:] = ["tokens" if name == "input_ids" else name for name in node.input]
    return _ungolden(parts, model)


def _narrow(parts: Parts) -> Parts:
    """One logit fewer than the task has labels."""
    model = graph(parts)
    for tensor in model.graph.initializer:
        if tensor.name in {"weights", "bias"}:
            value = numpy_helper.to_array(tensor)[..., :4]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    return _ungolden(parts, model)


def _not_a_number(parts: Parts) -> Parts:
    model = graph(parts)
    for tensor in model.graph.initializer:
        if tensor.name == "bias":
            value = np.full(5, np.nan, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, "bias"))
    return _ungolden(parts, model)


def _golden(parts: Parts, change: Callable[[float], float]) -> Parts:
    golden = json.loads(parts.files[bundle.MANIFEST])["golden"]
    first = golden["vectors"][0]
    first["logits"] = [change(value) for value in first["logits"]]
    return sealed(parts, golden=golden)


def _swollen(parts: Parts) -> Parts:
    """A graph that asks for 512 GiB when it is run."""
    model = graph(parts)
    shape = numpy_helper.from_array(np.array([2**37], np.int64), "vast")
    model.graph.initializer.append(shape)
    nodes = [
        helper.make_node("ConstantOfShape", ["vast"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["unswollen", "nothing"], ["logits"]),
    ]
    return _ungolden(parts, _after(model, nodes, "unswollen"))


def endless(parts: Parts) -> Parts:
    """A graph that never ends when it is run."""
    model = graph(parts)
    constants = {"turns": np.array(2**62, np.int64), "on": np.array(True), "zero": np.float32(0)}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    body = helper.make_graph(
        [helper.make_node("Identity", [a], [b]) for a, b in (("go", "goes"), ("sum", "sums"))],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["turns", "on", "zero"], ["nothing"], body=body),
        helper.make_node("Add", ["unended", "nothing"], ["logits"]),
    ]
    return _ungolden(parts, _after(model, nodes, "unended"))


def _after(model: ModelProto, nodes: list[NodeProto], name: str) -> ModelProto:
    """The model with `nodes` behind what gave the logits, which is called `name` then."""
    for node in model.graph.node:
        node.output[:] = [name if each == "logits" else each for each in node.output]
    model.graph.node.extend(nodes)
    return model


def _of(change: Callable[[Parts], Parts]) -> Callable[[Parts], bytes]:
    return lambda parts: change(parts).tar()


def _manifest(**changes: Any) -> Callable[[Parts], bytes]:
    return lambda parts: sealed(parts, **changes).tar()


CORPUS: Mapping[str, tuple[str, Callable[[Parts], bytes]]] = {
    # What is no archive, or a damaged one.
    "plain text": ("bundle_archive", lambda _: b"not an archive at all" * 40),
    "no bytes": ("bundle_archive", lambda _: b""),
    "an empty tar": ("bundle_archive", lambda _: bytes(10240)),
    "a tar that is cut off": ("bundle_archive", lambda parts: parts.tar()[:2000]),
    "a gzip that is cut off": ("bundle_archive", lambda parts: gzip.compress(parts.tar())[:900]),
    "a zip that is cut off": ("bundle_archive", lambda parts: parts.zip()[:900]),
    "a zip with a comment": ("bundle_archive", lambda parts: parts.zip(comment=b"PK\x05\x06")),
    "an encrypted zip": ("bundle_archive", _encrypted),
    "a zip by LZMA": ("bundle_archive", _compressed(zipfile.ZIP_LZMA)),
    "a zip by BZIP2": ("bundle_archive", _compressed(zipfile.ZIP_BZIP2)),
    # Names.
    "a path upwards": ("bundle_path", _also("../outside")),
    "a path upwards from within": ("bundle_path", _also("{}/../../outside")),
    "an absolute path": ("bundle_path", _also("/tmp/outside")),  # noqa: S108  it is refused
    "a path of another system": ("bundle_path", _also("{}\\outside")),
    "a drive": ("bundle_path", _also("C:/outside")),
    "a control character": ("bundle_path", _also("{}/out\nside")),
    "a path from a header": ("bundle_path", _pax_path),
    "a file beside the folder": ("bundle_path", _also("model.onnx")),
    "a folder in the folder": ("bundle_path", _also("{}/more", kind=tarfile.DIRTYPE)),
    "a file in a folder in the folder": ("bundle_path", _also("{}/more/model.onnx")),
    "two bundles": ("bundle_path", _also("tickets-000000000000/CARD.md")),
    "a path upwards in a zip": ("bundle_path", lambda p: p.zip(("../outside", b"more"))),
    "an absolute path in a zip": ("bundle_path", lambda p: p.zip(("/outside", b"more"))),
    # Kinds.
    "a symbolic link": ("bundle_link", _link(tarfile.SYMTYPE)),
    "a hard link": ("bundle_link", _link(tarfile.LNKTYPE)),
    "a symbolic link in a zip": ("bundle_link", _zip_link),
    "a device": ("bundle_special", _also("{}/CARD.md", kind=tarfile.CHRTYPE)),
    "a block device": ("bundle_special", _also("{}/CARD.md", kind=tarfile.BLKTYPE)),
    "a pipe": ("bundle_special", _also("{}/CARD.md", kind=tarfile.FIFOTYPE)),
    "a pipe in a zip": ("bundle_special", _zip_fifo),
    "a sparse file": ("bundle_special", _sparse),
    # Files.
    "a name that is there twice": ("bundle_duplicate", _also("{}/CARD.md")),
    "a name that is there twice in a zip": (
        "bundle_duplicate",
        lambda parts: parts.zip((f"./{parts.folder}/CARD.md", b"more")),
    ),
    "a library": ("bundle_file", _also("{}/operators.so")),
    "a pickle": ("bundle_file", _also("{}/model.pkl")),
    "a hidden file": ("bundle_file", _also("{}/.hidden")),
    # Sizes.
    "a gzip bomb": ("bundle_bomb", lambda parts: gzip.compress(_bomb(parts).tar())),
    "a zip bomb": ("bundle_bomb", lambda parts: _bomb(parts).zip()),
    "a long header": ("bundle_bomb", _long_header),
    "a long name": ("bundle_bomb", _long_name),
    "a long header in a gzip": ("bundle_bomb", lambda parts: gzip.compress(_long_header(parts))),
    "many headers": ("bundle_bomb", _many_headers),
    "a crowd in a zip": (
        "bundle_bomb",
        lambda parts: parts.zip(*((f"{parts.folder}/{n}", b"") for n in range(20))),
    ),
    # Bytes against the manifest.
    "another model": ("bundle_corrupt", lambda p: p.but(model__onnx=b"\0" * 700).tar()),
    "no card": (
        "bundle_corrupt",
        lambda p: Parts(p.folder, {n: c for n, c in p.files.items() if n != "CARD.md"}).tar(),
    ),
    "another folder's name": (
        "bundle_corrupt",
        lambda p: Parts("tickets-000000000000", p.files).tar(),
    ),
    "a manifest that is no JSON": ("bundle_corrupt", lambda p: p.but(manifest__json=b"{").tar()),
    "no manifest": (
        "bundle_missing",
        lambda p: Parts(p.folder, {"CARD.md": p.files["CARD.md"]}).tar(),
    ),
    "a schema of the future": ("bundle_unsupported", _manifest(schema_version=2)),
    # The graph.
    "no graph": ("bundle_graph", lambda p: sealed(p, model=b"not onnx").tar()),
    "a file of two formats": (
        "bundle_graph",
        lambda p: sealed(p, model=b"\x2a\x06\x20\x20ORTM" + p.files["model.onnx"]).tar(),
    ),
    "graphs in graphs": ("bundle_graph", _of(_deep)),
    "too many nodes": ("bundle_graph", _of(_wide)),
    "a vast tensor": ("bundle_graph", _of(_vast)),
    "a training graph": ("bundle_graph", _of(_training)),
    "external data": ("bundle_external_data", _of(_initializer)),
    "an external location": ("bundle_external_data", _of(_location_only)),
    "external data in an attribute": ("bundle_external_data", _of(_attribute)),
    "sparse external data": ("bundle_external_data", _of(_sparse_values)),
    "external data in a subgraph": ("bundle_external_data", _of(_subgraph)),
    "external data in a function": ("bundle_external_data", _of(_function_constant)),
    "an operator of our own": ("bundle_operator", _of(_operator)),
    "an operator set of our own": ("bundle_operator", _of(_opset)),
    "a function of our own": ("bundle_operator", _of(_function_domain)),
    # What only a run tells.
    "other inputs": ("bundle_mismatch", _of(_renamed_input)),
    "another number of logits": ("bundle_mismatch", _of(_narrow)),
    "a tokenizer that is none": (
        "bundle_mismatch",
        lambda p: sealed(
            p.but(tokenizer__json=b"{}"), tokenizer_sha256=hashlib.sha256(b"{}").hexdigest()
        ).tar(),
    ),
    "golden vectors that are no numbers": (
        "bundle_golden",
        _of(lambda parts: _golden(parts, lambda _: float("nan"))),
    ),
    "golden vectors of another model": (
        "bundle_golden",
        _of(lambda parts: _golden(parts, lambda value: value + 1)),
    ),
    "answers that are no numbers": ("bundle_golden", _of(_not_a_number)),
    "a graph that swells": ("bundle_memory", _of(_swollen)),
    # What cannot take the serving student's place.
    "a teacher": ("bundle_mismatch", _manifest(role="teacher")),
}

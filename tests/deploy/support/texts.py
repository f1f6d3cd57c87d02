"""A text program in small: the sum of the rows of a name's tokens, at length 1."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto, external_data_helper, helper

from edgecl_deploy.format import FileRef, TextProgram, digest, write_merges

MERGES = (("a", "b"), ("b", "c</w>"), ("ab", "c</w>"), ("c", "a"), ("t", "</w>"))
VOCAB = 520  # 514 besides the merges
WIDTH = 3
TABLE = np.random.default_rng(0).normal(size=(VOCAB, WIDTH)).astype(np.float32)


def write_graph(path, output="feature"):
    """Sum the rows of the tokens, and normalise."""
    table = helper.make_tensor("table", TensorProto.FLOAT, TABLE.shape, TABLE.tobytes(), raw=True)
    external_data_helper.set_external_data(table, "weights.bin", 0, TABLE.nbytes)
    table.ClearField("raw_data")
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
            helper.make_node("ReduceL2", ["sum", "axis"], ["norm"], keepdims=1),
            helper.make_node("Div", ["sum", "norm"], [output]),
        ],
        "text",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["b", "n"])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["b", WIDTH])],
        [table, axis],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString(deterministic=True))


def ref(path):
    return FileRef(path.name, digest(path.read_bytes()), path.stat().st_size)


def write_text(world, output="feature", merges=MERGES, **changes):
    """Write a text program for a world's bundle; return its folder."""
    folder = world.fresh()
    folder.mkdir()
    write_graph(folder / "text.onnx", output)
    (folder / "weights.bin").write_bytes(TABLE.tobytes())
    (folder / "merges.txt").write_bytes(write_merges(merges))
    program = TextProgram(
        clip=digest(b"clip"),
        backbone=world.bundle.backbone.digest,
        width=WIDTH,
        context_length=8,
        vocab_size=VOCAB,
        logit_scale=0.0,
        templates=("{}", "a {}"),
        graph=ref(folder / "text.onnx"),
        weights=ref(folder / "weights.bin"),
        merges=ref(folder / "merges.txt"),
        tolerance=1e-5,
        created_by="tests",
    )
    (folder / "text.json").write_bytes(replace(program, **changes).to_bytes())
    return folder

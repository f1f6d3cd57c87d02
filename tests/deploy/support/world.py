"""A world in small: a bundle of two programs built by hand, with packs and releases for them.

`plain`: the mean colour of an image against one prototype per class.
`pool`:  the mean colour chooses prompts, these and a shift are added to it, then the prototypes.
Both are simple enough to be computed in numpy beside the graphs (`World.expected`).
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgecl_deploy import engines
from edgecl_deploy.files import write_release
from edgecl_deploy.format import (
    Backbone,
    Bundle,
    Calibration,
    Canaries,
    FileRef,
    LearnedSpec,
    Pack,
    PackTensor,
    Preprocessing,
    Program,
    Release,
    SlotSpec,
    Staged,
    digest,
    write_tensors,
)

SIDE = 8
COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "white": (0.6, 0.6, 0.6),
}
BACKBONE = digest(b"backbone")
INTERFACES = {"plain": digest(b"plain"), "pool": digest(b"pool")}
SCALE = np.array([1.0, 1.0, 1.0], np.float32) / 255  # the only weights of this backbone

FLOAT, INT, BYTE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
KINDS = {
    "image": (BYTE, ["b", SIDE, SIDE, 3]),
    "prototypes": (FLOAT, ["c", 3]),
    "keys": (FLOAT, ["t", 3]),
    "prompts": (FLOAT, ["t", "p", 3]),
    "shift": (FLOAT, ["r", 3]),
    "chosen": (FLOAT, ["b", "p", 3]),
    "chosen_mask": (FLOAT, [4]),
    "query": (FLOAT, ["b", 3]),
    "scores": (FLOAT, ["b", "c"]),
    "match": (INT, ["b", 1]),
    "match_score": (FLOAT, ["b", 1]),
}


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


MEAN = [
    node("Cast", "image", "float", to=FLOAT),
    node("ReduceMean", "float space", "mean", keepdims=0),
    node("Mul", "mean scale", "colour"),
]
CHOOSE = [
    node("Transpose", "keys", "keys_t", perm=[1, 0]),
    node("MatMul", "query keys_t", "similar"),
    node("ArgMax", "similar", "match", axis=1, keepdims=1),
    node("ReduceMax", "similar axis_1", "match_score", keepdims=1),
    node("Squeeze", "match axis_1", "one"),
    node("Gather", "prompts one", "chosen", axis=0),
]
INJECT = [
    node("ReduceSum", "chosen axis_1", "prompt_sum", keepdims=0),
    node("ReduceSum", "shift axis_0", "shift_sum", keepdims=0),
    node("Add", "colour prompt_sum", "prompted"),
    node("Add", "prompted shift_sum", "shifted"),
]


def scoring(feature: str) -> list[onnx.NodeProto]:
    return [
        node("Transpose", "prototypes", "prototypes_t", perm=[1, 0]),
        node("MatMul", f"{feature} prototypes_t", "scores"),
        node("Identity", feature, "feature"),
    ]


def write_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: str,
    outputs: str,
    opset: int = 18,
    sizes: dict[str, int] | None = None,
) -> FileRef:
    """Write a graph; `sizes` fixes axes that are dynamic otherwise."""
    constants = {"space": [1, 2], "axis_0": [0], "axis_1": [1]}
    used = {name for each in nodes for name in each.input}
    initializers = [
        helper.make_tensor(name, INT, [len(axes)], axes)
        for name, axes in constants.items()
        if name in used
    ]
    if "scale" in used:  # external data, as in a real bundle
        scale = helper.make_tensor("scale", FLOAT, [3], SCALE.tobytes(), raw=True)
        onnx.external_data_helper.set_external_data(scale, "weights.bin", 0, SCALE.nbytes)
        scale.ClearField("raw_data")
        initializers.append(scale)

    def value(name: str) -> onnx.ValueInfoProto:
        kind, axes = KINDS.get(name, (FLOAT, ["b", 3]))
        shape = [(sizes or {}).get(axis, axis) for axis in axes]
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        path.stem,
        [value(name) for name in inputs.split()],
        [value(name) for name in outputs.split()],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    data = model.SerializeToString(deterministic=True)
    path.write_bytes(data)
    return FileRef(path.name, digest(data), len(data))


def write_plain(folder: Path) -> Program:
    flat = [
        node("ReduceMin", "colour axis_1", "low", keepdims=1),
        node("Sub", "low low", "nought"),
        node("Cast", "nought", "match", to=INT),
        node("Exp", "nought", "match_score"),
    ]
    encode = write_graph(
        folder / "plain.encode.onnx",
        [*MEAN, node("Identity", "colour", "cls"), node("Identity", "colour", "prompt")],
        "image",
        "cls prompt",
    )
    return Program(
        interface=INTERFACES["plain"],
        learned={"prototypes": LearnedSpec(("c", "d"), {"d": 3}, "c")},
        passes=("plain",),
        slots={},
        matcher="none",
        fused=write_graph(
            folder / "plain.fused.onnx",
            [*MEAN, *flat, *scoring("colour")],
            "image prototypes",
            "scores feature match match_score",
        ),
        staged=Staged(
            match=None,
            classify=write_graph(
                folder / "plain.classify.onnx",
                scoring("plain_cls"),
                "plain_cls prototypes",
                "scores feature",
            ),
            encode_dynamic=encode,
            encode_fixed=encode,
        ),
        tolerance={"scores": 1e-5, "feature": 1e-5},
    )


def write_pool(folder: Path) -> Program:
    query = node("Identity", "colour", "query")
    ends = [node("Identity", "shifted", "cls"), node("Identity", "shifted", "prompt")]
    masked = [  # a padded row gets the weight exp(-1e9) = 0, as in attention
        node("Exp", "chosen_mask", "weight"),
        node("Unsqueeze", "weight axis_1", "weights"),
        node("Mul", "chosen weights", "weighted"),
        node("ReduceSum", "weighted axis_1", "prompt_sum", keepdims=0),
        *INJECT[1:],
    ]
    return Program(
        interface=INTERFACES["pool"],
        learned={
            "prototypes": LearnedSpec(("c", "d"), {"d": 3}, "c"),
            "keys": LearnedSpec(("t", "d"), {"d": 3}, "t"),
            "prompts": LearnedSpec(("t", "p", "d"), {"d": 3}, "t"),
            "shift": LearnedSpec(("r", "d"), {"d": 3}, None),
        },
        passes=("plain", "injected"),
        slots={
            "chosen": SlotSpec(("b", "p", "d"), {"d": 3}, "p", 4, True, "match"),
            "shift": SlotSpec(("r", "d"), {"d": 3}, "r", 2, False, "learned"),
        },
        matcher="top-1 key",
        fused=write_graph(
            folder / "pool.fused.onnx",
            [*MEAN, query, *CHOOSE, *INJECT, *scoring("shifted")],
            "image prototypes keys prompts shift",
            "scores feature match match_score",
        ),
        staged=Staged(
            match=write_graph(
                folder / "pool.match.onnx", CHOOSE, "query keys prompts", "match match_score chosen"
            ),
            classify=write_graph(
                folder / "pool.classify.onnx",
                scoring("injected_cls"),
                "injected_cls prototypes",
                "scores feature",
            ),
            encode_dynamic=write_graph(
                folder / "pool.encode.onnx",
                [*MEAN, *INJECT, *ends],
                "image chosen shift",
                "cls prompt",
            ),
            encode_fixed=write_graph(
                folder / "pool.encode.fixed.onnx",
                [*MEAN, *masked, *ends],
                "image chosen chosen_mask shift",
                "cls prompt",
                sizes={"p": 4, "r": 2},
            ),
        ),
        tolerance={"scores": 1e-5, "feature": 1e-5},
    )


@dataclass
class Made:
    """A release that can be changed before it is written."""

    release: Release
    manifests: dict[str, bytes]
    blobs: dict[str, bytes]

    def write(self, path: Path) -> Path:
        write_release(path, self.release, self.manifests, self.blobs)
        return path


@dataclass
class World:
    """A bundle on disk and what makes packs and releases for it."""

    root: Path
    bundle: Bundle
    count: int = field(default=0)

    @property
    def bundle_path(self) -> Path:
        return self.root / "bundle"

    def fresh(self) -> Path:
        self.count += 1
        return self.root / f"fresh-{self.count}"

    def tensors(self, task: int, classes: tuple[str, ...], program: str) -> dict[str, np.ndarray]:
        prototypes = np.array([COLOURS[name] for name in classes], np.float32).reshape(-1, 3)
        if program == "plain":
            return {"prototypes": prototypes}
        rng = np.random.default_rng(task)
        return {
            "prototypes": prototypes,
            "keys": np.eye(3, dtype=np.float32)[task % 3 : task % 3 + 1],
            "prompts": rng.normal(0, 0.01, (1, 3, 3)).astype(np.float32),
            "shift": np.full((1, 3), 0.001 * task, np.float32),
        }

    def pack(
        self,
        task: int,
        classes: tuple[str, ...],
        *,
        known: tuple[str, ...] = (),
        program: str = "plain",
        dtype: str = "float16",
        tensors: dict[str, np.ndarray] | None = None,
    ) -> tuple[Pack, dict[str, bytes]]:
        if tensors is None:
            tensors = self.tensors(task, classes, program)
        tensors = {name: array.astype(dtype) for name, array in tensors.items()}
        blob = write_tensors(tensors)
        specs = self.bundle.programs[program].learned
        entries = {
            name: PackTensor(
                array.dtype.name,
                array.shape,
                specs[name].axes if name in specs else ("c", "d"),
                specs[name].concat_axis if name in specs else None,
                digest(blob),
            )
            for name, array in tensors.items()
        }
        pack = Pack(
            task=task,
            name=f"task {task}",
            program=program,
            interface=INTERFACES[program],
            backbone=BACKBONE,
            classes=classes,
            known=known,
            tensors=entries,
            blobs={digest(blob): len(blob)},
        )
        return pack, {digest(blob): blob}

    def made(
        self,
        *packs: tuple[Pack, dict[str, bytes]],
        number: int = 1,
        unknown_below: float | None = None,
        canary: tuple[np.ndarray, np.ndarray] | None = None,
        atol: float = 1e-3,
    ) -> Made:
        manifests = {digest(pack.to_bytes()): pack.to_bytes() for pack, _ in packs}
        blobs = {name: data for _, each in packs for name, data in each.items()}
        canaries, own = None, {}
        if canary is not None:
            images = write_tensors({"images": canary[0]})
            scores = write_tensors({"scores": canary[1]})
            own = {digest(images): images, digest(scores): scores}
            canaries = Canaries((digest(images),), digest(scores), atol)
        release = Release(
            number=number,
            parent=None if number == 1 else number - 1,
            bundle=digest(self.bundle.to_bytes()),
            backbone=BACKBONE,
            program=packs[0][0].program,
            interface=packs[0][0].interface,
            packs=tuple(manifests),
            canaries=canaries,
            calibration=None if unknown_below is None else Calibration(unknown_below),
            blobs={name: len(data) for name, data in own.items()},
        )
        return Made(release, manifests, {**blobs, **own})

    def release(self, *names: str, program: str = "plain", number: int = 1) -> Path:
        """A release with one class per task."""
        packs = [self.pack(i, (name,), program=program) for i, name in enumerate(names)]
        return self.made(*packs, number=number).write(self.fresh())

    def expected(self, images: np.ndarray, packs: list[Pack], program: str) -> np.ndarray:
        """The scores of the class-per-task packs of this world, in numpy."""
        parts = [self.tensors(pack.task, pack.classes, program) for pack in packs]
        parts = [{k: v.astype(np.float16).astype(np.float32) for k, v in p.items()} for p in parts]
        colour = images.astype(np.float32).mean((1, 2)) / 255  # [b, d]
        if program == "pool":
            keys = np.concatenate([part["keys"] for part in parts])
            prompts = np.concatenate([part["prompts"] for part in parts])
            chosen = (colour @ keys.T).argmax(1)
            colour = colour + prompts[chosen].sum(1) + parts[-1]["shift"].sum(0)
        return colour @ np.concatenate([part["prototypes"] for part in parts]).T


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def make_world(root: Path) -> World:
    """Write the bundle of a world into an empty folder."""
    folder = root / "bundle"
    folder.mkdir()
    weights = SCALE.tobytes()
    (folder / "weights.bin").write_bytes(weights)
    bundle = Bundle(
        backbone=Backbone("mean-colour", BACKBONE, 3),
        preprocessing=Preprocessing(
            SIDE, SIDE, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (255, 255, 255)
        ),
        weights=FileRef("weights.bin", digest(weights), len(weights)),
        programs={"plain": write_plain(folder), "pool": write_pool(folder)},
        created_by="tests",
    )
    (folder / "bundle.json").write_bytes(bundle.to_bytes())
    return World(root, bundle)


def picture(name: str, batch: int | None = None) -> np.ndarray:
    pixel = (np.array(COLOURS[name]) * 255).astype(np.uint8)
    shape = (SIDE, SIDE, 3) if batch is None else (batch, SIDE, SIDE, 3)
    return np.broadcast_to(pixel, shape).copy()


@pytest.fixture
def colour_picture():
    return picture


class FakeSession:
    """A session that counts its calls and computes the `plain` program in numpy."""

    inputs = ("image", "prototypes")
    outputs = ("scores", "feature", "match", "match_score")

    def pin(self, held):
        return engines.Held(self, held)

    def run(self, feeds):
        feature = feeds["image"].astype(np.float32).mean((1, 2)) / 255
        zeros = np.zeros((len(feature), 1))
        return {
            "scores": feature @ feeds["prototypes"].T,
            "feature": feature,
            "match": zeros.astype(np.int64),
            "match_score": zeros.astype(np.float32) + 1,
        }


class FakeEngine:
    """An engine without a library; its capabilities can be set."""

    version = "0"

    def __init__(self, threads: int | None, artefacts: object = None) -> None:
        self.threads = threads
        self.able = engines.Capabilities(empty_tensors=True, dynamic_shapes=True)
        self.loads: list[Path] = []

    def capabilities(self):
        return self.able

    def load(self, graph):
        self.loads.append(graph.path)
        return FakeSession()


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    engine = FakeEngine(None)
    monkeypatch.setattr(engines, "_FACTORIES", dict(engines._FACTORIES))
    engines.register("fake", lambda threads, artefacts: engine)
    return engine

"""The toy World in another precision: the same graphs with another scale, as if it were rounded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from tests.deploy.support.world import SCALE, Made, World, picture

from edgecl_deploy.format import (
    W8_COLUMN,
    CalibrationImages,
    FileRef,
    Licence,
    Program,
    ProgramVariant,
    Variant,
    digest,
)

WEIGHTS = "weights.int8.bin"
OFF = 0.01  # relative error of every colour
LICENCE = Licence(atol=0.05, agreement=1.0, images=100, lost=0, engine="tests")


def add_variant(world: World, *names: str) -> World:
    """Give programs of the world's bundle the variant int8; all without names."""
    folder = world.bundle_path
    scale = (SCALE * (1 + OFF)).astype(np.float32).tobytes()
    (folder / WEIGHTS).write_bytes(scale)
    programs = dict(world.bundle.programs)
    for name in names or tuple(programs):
        programs[name] = _with_variant(folder, programs[name])
    variant = Variant(
        FileRef(WEIGHTS, digest(scale), len(scale)), W8_COLUMN, 64, CalibrationImages(60, "0" * 64)
    )
    world.bundle = replace(world.bundle, programs=programs, variants={"int8": variant})
    (folder / "bundle.json").write_bytes(world.bundle.to_bytes())
    return world


def _with_variant(folder: Path, program: Program) -> Program:
    def write(ref: FileRef) -> FileRef:
        model = onnx.load(folder / ref.file, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = WEIGHTS
        path = folder / ref.file.replace(".", ".int8.", 1)
        path.write_bytes(model.SerializeToString(deterministic=True))
        return FileRef(path.name, digest(path.read_bytes()), path.stat().st_size)

    staged = program.staged
    own = ProgramVariant(
        write(program.fused), write(staged.encode_dynamic), write(staged.encode_fixed)
    )
    return replace(program, variants={"int8": own})


def licensed(made: Made, licence: Licence | None = LICENCE, precision: str = "int8") -> Made:
    """Give a release a licence, or take it away."""
    canaries = made.release.canaries
    assert canaries is not None
    variants = {} if licence is None else {precision: licence}
    made.release = replace(made.release, canaries=replace(canaries, variants=variants))
    return made


def with_canary(world: World, number: int = 1, program: str = "plain", **options: float) -> Made:
    """Return a release of one class with a canary of it."""
    pack = world.pack(0, ("red",), program=program)
    images = picture("red", 1)
    canary = (images, world.expected(images, [pack[0]], program).astype(np.float32))
    return world.made(pack, number=number, canary=canary, **options)

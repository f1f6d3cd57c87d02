"""A toy world whose program compares by cosine and takes classes from images."""

from dataclasses import replace

import numpy as np
from tests.deploy.support.world import (
    INT,
    MEAN,
    SIDE,
    Made,
    World,
    node,
    picture,
    write_graph,
)

from edgecl_deploy.format import MEAN as MEANS
from edgecl_deploy.format import Enrol

YELLOW, CYAN, PINK = (0.9, 0.85, 0.05), (0.05, 0.8, 0.9), (0.9, 0.1, 0.8)
DECLARED = Enrol(MEANS, "prototypes", (0, 3))


def cosine_world(world: World) -> World:
    """Let `plain` compare by cosine, and declare how it takes a class; `pool` declares nothing."""
    plain = world.bundle.programs["plain"]
    flat = [
        node("ReduceMin", "colour axis_1", "low", keepdims=1),
        node("Sub", "low low", "nought"),
        node("Cast", "nought", "match", to=INT),
        node("Exp", "nought", "match_score"),
        node("ReduceL2", "colour axis_1", "length", keepdims=1),
        node("Div", "colour length", "unit"),
        node("ReduceL2", "prototypes axis_1", "lengths", keepdims=1),
        node("Div", "prototypes lengths", "units"),
        node("Transpose", "units", "units_t", perm=[1, 0]),
        node("MatMul", "unit units_t", "scores"),
        node("Identity", "colour", "feature"),
    ]
    fused = write_graph(
        world.bundle_path / "plain.fused.onnx",
        [*MEAN, *flat],
        "image prototypes",
        "scores feature match match_score",
    )
    programs = {**world.bundle.programs, "plain": replace(plain, fused=fused, enrol=DECLARED)}
    world.bundle = replace(world.bundle, programs=programs)
    (world.bundle_path / "bundle.json").write_bytes(world.bundle.to_bytes())
    return world


def shades(colour: tuple[float, float, float], count: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures of one colour, each a little other: uint8 [side, side, 3]."""
    rng = np.random.default_rng(seed)
    base = np.array(colour) * 255 + rng.normal(0, 12, (count, 1, 1, 3))
    noisy = base + rng.normal(0, 4, (count, SIDE, SIDE, 3))
    return list(noisy.clip(0, 255).astype(np.uint8))


def release(
    world: World,
    number: int,
    names: tuple[str, ...] = ("red", "green"),
    tilt: float = 0.0,
    **colours: object,
) -> Made:
    """A release of one pack per class, in float32, with a canary of each class.

    `tilt` moves the prototypes away from the canaries; `colours` are prototypes of further classes.
    """
    packs, rows = [], []
    for task, name in enumerate((*names, *colours)):
        own = np.array([colours[name]], np.float32) if name in colours else None
        array = world.tensors(task, (name,), "plain")["prototypes"] + tilt if own is None else own
        rows.append(array)
        tensors = {"prototypes": array}
        packs.append(world.pack(task, (name,), tensors=tensors, dtype="float32"))
    images = np.concatenate([picture(name, 1) for name in names])
    units = [each / np.linalg.norm(each) for each in rows]
    pixels = images.astype(np.float32).mean((1, 2)) / 255
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    scores = (pixels @ np.concatenate(units).T).astype(np.float32)
    return world.made(*packs, number=number, canary=(images, scores))

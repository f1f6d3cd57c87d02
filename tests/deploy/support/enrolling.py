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
from edgecl_deploy.format import RIDGE, Enrol, Factor, digest, write_tensors

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


RIDGED = Enrol(RIDGE, "prototypes", (0, 3))
WEIGHT = 0.1  # lambda


def ridge_world(world: World) -> World:
    """Let `plain`, whose scores are linear, declare a ridge head."""
    plain = replace(world.bundle.programs["plain"], enrol=RIDGED)
    world.bundle = replace(world.bundle, programs={**world.bundle.programs, "plain": plain})
    (world.bundle_path / "bundle.json").write_bytes(world.bundle.to_bytes())
    return world


def colours_of(pictures: list[np.ndarray]) -> np.ndarray:
    """The features of the toy backbone: float64 [n, 3]."""
    return np.stack(pictures).astype(np.float64).mean((1, 2)) / 255


def ridge_head(classes: dict[str, list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The factor and the head [c, 3] of all pictures together, solved as the workstation does."""
    rows = [colours_of(each) for each in classes.values()]
    seen = np.concatenate(rows)
    target = np.repeat(np.eye(len(rows)), [len(each) for each in rows], axis=0)
    shifted = seen.T @ seen + WEIGHT * np.eye(3)
    return np.linalg.cholesky(shifted), np.linalg.solve(shifted, seen.T @ target).T


def ridge_release(
    world: World, number: int, classes: dict[str, list[np.ndarray]], *, factor: bool = True
) -> Made:
    """A release of one pack with all classes, and the factor of its sums."""
    lower, head = ridge_head(classes)
    names = tuple(classes)
    tensors = {"prototypes": head}
    pack = world.pack(0, names, tensors=tensors, dtype="float32")
    images = np.stack([each[0] for each in classes.values()])
    scores = (colours_of(list(images)) @ head.T).astype(np.float32)
    made = world.made(pack, number=number, canary=(images, scores))
    if factor:
        blob = write_tensors({"factor": lower[np.tril_indices(3)].astype(np.float32)})
        shipped = Factor(WEIGHT, sum(map(len, classes.values())), 3, digest(blob), len(blob), 0.0)
        made.release = replace(made.release, enrolment=shipped)
        made.blobs[digest(blob)] = blob
    return made

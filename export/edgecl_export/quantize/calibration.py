"""What reaches the weights of a program while it runs on real images."""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgecl_deploy.engines import Arrays, Graph, Session, make_engine
from edgecl_deploy.format import PLAIN, Program
from edgecl_deploy.programs import learned_slots, neutral_slots
from edgecl_export.quantize.gptq import Moments
from edgecl_export.quantize.rewriting import Use, uses

BATCH = 8  # images of one run: bounds the memory of what is captured
SCRATCH = "calibration.onnx"

Images = NDArray[np.uint8]


def calibrate(
    folder: Path,
    program: Program,
    images: Images,
    learned: Arrays | None,
    known: Container[str] = (),
) -> dict[str, Moments]:
    """Return the moments of the inputs of every weight that becomes int8, by its content.

    A program with a plain pass runs that one, which all programs of a backbone share. Another one
    runs its injected pass with what was learned first, if that is at hand.

    Args:
        folder: of the bundle; a scratch graph is written there, next to its weights.
        learned: of the first task, by name; None runs the plain pass of any program.
        known: weights that are left out.
    """
    model = ir.load(folder / program.staged.encode_dynamic.file)
    wanted = [use for use in uses(model) if use.key not in known]
    moments = {use.key: Moments(use.shape[0]) for use in wanted}
    if not wanted:
        return {}
    session = capturing(model, wanted, folder / SCRATCH)
    for slots in injected(program, learned):
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            out = session.run(feeds(program, session, batch, slots))
            for use in wanted:
                moments[use.key].add(out[use.inputs])
    return moments


def capturing(model: ir.Model, wanted: Sequence[Use], path: Path) -> Session:
    """Load a graph that also returns the inputs of some MatMuls; one thread, for equal sums."""
    held = {str(value.name) for value in model.graph.outputs}
    for use in wanted:
        value = use.node.inputs[0]
        assert value is not None
        if use.inputs not in held:
            held.add(use.inputs)
            model.graph.outputs.append(value)
    ir.save(model, path)
    try:
        return make_engine("onnxruntime", 1).load(Graph(path))
    finally:
        path.unlink()


def injected(program: Program, learned: Arrays | None) -> Iterator[Arrays]:
    """Yield the slots of each pass to run; an empty mapping is the plain pass."""
    if learned is None or PLAIN in program.passes or not program.slots:
        yield {}
        return
    yield from learned_slots(program, learned, fixed=False)


def feeds(
    program: Program, session: Session, images: Images, slots: Arrays
) -> dict[str, NDArray[np.generic]]:
    """Return the inputs of `encode`; a slot that is not given is neutral."""
    neutral = neutral_slots(program, len(images), fixed=False)
    found: dict[str, NDArray[np.generic]] = {"image": images, **neutral, **slots}
    return {name: array for name, array in found.items() if name in session.inputs}


def feature_errors(
    program: Program, own: Session, wanted: Session, images: Images
) -> Iterator[tuple[str, float]]:
    """Yield how much each feature of a graph differs from that of another, by its name.

    The graphs are `encode` in two precisions, with neutral slots; a difference is relative to the
    largest value, or to 1 where that is less.
    """
    got, want = (each.run(feeds(program, each, images, {})) for each in (own, wanted))
    for name in program.features:
        scale = max(1.0, float(np.abs(want[name]).max(initial=0)))
        yield name, float(np.abs(got[name] - want[name]).max(initial=0)) / scale

"""The check that every export ends with: the new graphs against PyTorch, on fixed images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgecl.backbones import Backbone
from edgecl.program import Outputs, Program
from edgecl.program.learned import Tensors, TensorSpec, join
from edgecl_deploy import Classifier
from edgecl_deploy.engines import make_engine
from edgecl_deploy.format import Program as ProgramEntry
from edgecl_deploy.forms import Mode
from edgecl_deploy.programs import Scores, in_parts, load_program
from edgecl_export.errors import GraphError

REFERENCE = "onnxruntime"  # the engine that computes what others are compared with
FORMS = (("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed"))
IMAGES, TASKS, CLASSES = 3, 3, 2  # classes per task
SPREAD = 0.1  # of the random learned tensors


def check_program(program: Program, backbone: Backbone, entry: ProgramEntry, folder: Path) -> float:
    """Run all forms of a program on fixed images with fixed random learned tensors.

    The tasks are rotated: whichever of them the images match, it is tested at every position.

    Returns:
        The largest error of scores and features, relative to their scale.

    Raises:
        GraphError: if a form errs by more than the program's tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    size = backbone.preprocess.size
    images = torch.randint(0, 256, (IMAGES, size, size, 3), generator=generator, dtype=torch.uint8)
    cases = []
    for learned in random_learned(program, generator):
        with torch.no_grad():
            want = program.infer(backbone.model, backbone.preprocess.normalise(images), learned)
        cases.append(({name: tensor.numpy() for name, tensor in learned.items()}, want))
    engine = make_engine(REFERENCE)
    worst = 0.0
    tolerance = min(entry.tolerance.values())
    for form, slots in FORMS:
        loaded = load_program(engine, folder, entry, Mode(form, slots))
        errors = [relative_error(loaded.bind(given).run(images.numpy()), w) for given, w in cases]
        error = float(np.max(errors))  # NaN if one of them is
        worst = max(worst, error)
        if not error <= tolerance:  # NaN fails too
            raise GraphError(
                f"The {form} form of {program.name} ({slots} slots) must equal PyTorch "
                f"within {tolerance:g}, got a relative error of {error:.1e}. The bundle is left as "
                "it was; report this with the versions of torch and onnxruntime."
            )
    return worst


def random_learned(program: Program, generator: torch.Generator) -> Iterator[Tensors]:
    """Yield learned tensors of some tasks, random except for counts, once for every rotation.

    Appended tensors are rotated; replaced ones are those of the last task.
    """
    declared = program.declare()

    def value(item: TensorSpec, task: int) -> torch.Tensor:
        if item.counts:
            return item.count(CLASSES)
        shape = item.shape(CLASSES, task * CLASSES, task)
        return torch.randn(shape, generator=generator) * SPREAD

    made = {name: item for name, item in declared.items() if item.generated is None}
    parts = [{name: value(item, task) for name, item in made.items()} for task in range(TASKS)]
    for turn in range(TASKS):
        turned = [
            {
                name: parts[task if item.dim is None else (task + turn) % TASKS][name]
                for name, item in made.items()
            }
            for task in range(TASKS)
        ]
        yield join(declared, turned)


def run(device: Classifier, images: NDArray[np.uint8], batch: int) -> Scores:
    """Run images in batches, and return what they get in their order."""
    return in_parts(images, batch, device.scores)


def relative_error(got: Scores, want: Outputs) -> float:
    """Return the largest error of scores over their scale, and of features over the largest one."""
    scores, feature = want.scores.numpy(), want.feature.numpy()
    errors = [
        np.abs(got.scores - scores).max() / scale_of(scores),
        np.abs(got.feature - feature).max() / max(1.0, float(np.abs(feature).max())),
    ]
    return float(np.max(errors))  # NaN if one of them is


def scale_of(scores: NDArray[np.float32]) -> float:
    """Return the scale of scores: the largest of the images' best scores, at least 1.

    It is not the largest magnitude: a method scores the rows that it excludes far below all others.
    """
    return max(1.0, float(np.abs(scores.max(axis=1)).max()))

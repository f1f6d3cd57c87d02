"""The check that every export ends with: the new graphs against PyTorch, on fixed images."""

from pathlib import Path

import numpy as np
import torch

from edgecl.backbones import Backbone
from edgecl.learned import join
from edgecl.methods import Method
from edgecl.program import Outputs, infer
from edgecl_deploy.engines import make_engine
from edgecl_deploy.format import Program
from edgecl_deploy.programs import Scores, load_program
from edgecl_export.errors import GraphError

FORMS = (("fused", "dynamic"), ("staged", "dynamic"), ("staged", "fixed"))
IMAGES, TASKS, CLASSES = 3, 3, 2  # classes per task
SPREAD = 0.1  # of the random learned tensors


def check_program(method: Method, backbone: Backbone, program: Program, folder: Path) -> float:
    """Run all forms of a program on fixed images with fixed random learned tensors.

    Returns:
        The largest error over the largest magnitude, of scores and features.

    Raises:
        GraphError: if a form errs by more than the program's tolerance.
    """
    generator = torch.Generator().manual_seed(0)
    size = backbone.preprocess.size
    images = torch.randint(0, 256, (IMAGES, size, size, 3), generator=generator, dtype=torch.uint8)
    declared = method.declare()
    parts = [
        {
            name: torch.randn(item.shape(CLASSES, task * CLASSES, task), generator=generator)
            * SPREAD
            for name, item in declared.items()
            if item.generated is None
        }
        for task in range(TASKS)
    ]
    learned = join(declared, parts)
    with torch.no_grad():
        want = infer(method, backbone.model, backbone.preprocess.normalise(images), learned)
    engine = make_engine("onnxruntime")
    arrays = {name: tensor.numpy() for name, tensor in learned.items()}
    worst = 0.0
    tolerance = min(program.tolerance.values())
    for form, slots in FORMS:
        bound = load_program(engine, folder, program, form, slots).bind(arrays)
        error = relative_error(bound.run(images.numpy()), want)
        worst = max(worst, error)
        if not error <= tolerance:  # NaN fails too
            raise GraphError(
                f"The {form} form of {method.name} ({slots} slots) must say what PyTorch says "
                f"within {tolerance:g}, got a relative error of {error:.1e}. The bundle is left as "
                "it was; report this with the versions of torch and onnxruntime."
            )
    return worst


def relative_error(got: Scores, want: Outputs) -> float:
    """Return the largest error of scores and features over their largest magnitude (at least 1)."""
    pairs = ((got.scores, want.scores.numpy()), (got.feature, want.feature.numpy()))
    errors = [np.abs(a - b).max() / max(1.0, float(np.abs(b).max())) for a, b in pairs]
    return float(np.max(errors))  # NaN if one of them is

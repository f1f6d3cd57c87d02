"""
A method of one file
====================

A method of your own is one file: a program, which is exported, and a recipe, which learns. This
method keeps the features of a few training images of each class, and returns the class of the
nearest one.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl import learn_stream, load_backbone, load_stream, new_learner
from edgecl.config import at_least
from edgecl.methods import Method, MethodConfig, register
from edgecl.program import Encoded, Program, Tensors, TensorSpec
from edgecl.program.fitting import FitResult, TaskContext
from edgecl_deploy import Classifier
from edgecl_export import export_bundle, export_packs, export_release

scratch = tempfile.TemporaryDirectory()
work = Path(scratch.name)

# %%
# The classifier
# --------------
#
# A classifier declares its learned tensors with named axes: `c` classes, `k` examples of a class,
# `d` numbers of a feature. Tasks are appended on `c`, so a task never changes what another one
# learned. `scores` becomes part of the exported graph; `fit` runs once per task, not on the device.


@dataclass(frozen=True)
class NearestExamples:
    """The features of a few images per class; the score is the largest cosine."""

    width: int
    count: int

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"k": self.count, "d": self.width}
        return {"examples": TensorSpec("c k d", sizes, concat_axis="c")}

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        return encoded.features("plain").cls

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        images = F.normalize(self.feature(encoded), dim=-1)
        examples = F.normalize(learned["examples"], dim=-1)
        return torch.einsum("bd,ckd->bck", images, examples).amax(dim=-1)

    def fit(self, task: TaskContext) -> FitResult:
        """Choose the examples of each class of the task."""
        features = task.features["feature"]
        chosen = [self.spread(features[task.labels == row]) for row in range(task.classes)]
        return FitResult({"examples": torch.stack(chosen)})

    def spread(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "k d"]:
        """Return the image nearest to the mean, then always the one farthest from the chosen."""
        directions = F.normalize(features, dim=-1)
        rows = [int((directions @ directions.mean(dim=0)).argmax())]
        while len(rows) < self.count:
            nearest = (directions @ directions[rows].T).amax(dim=-1)
            rows.append(int(nearest.argmin()))
        return features[rows]


# %%
# The method
# ----------
#
# The configuration is a frozen dataclass. `build` composes the program: one plain pass of the
# backbone, no injector, no matcher. Nothing is trained by gradient, so there is no loss.


@dataclass(frozen=True)
class NearestExamplesConfig(MethodConfig):
    """How many examples of a class are kept."""

    count: int = 3

    def __post_init__(self) -> None:
        at_least(1, "nearest-examples", count=self.count)


@register
class NearestExamplesMethod(Method[NearestExamplesConfig]):
    """Nearest example in the frozen features."""

    name: ClassVar[str] = "nearest-examples"
    title: ClassVar[str] = "Nearest examples"
    paper: ClassVar[str] = "https://doi.org/10.1109/TIT.1967.1053964"
    family: ClassVar[str] = "closed form"
    config_type: ClassVar[type[MethodConfig]] = NearestExamplesConfig

    def build(self) -> Program:
        classifier = NearestExamples(self.spec.feature_dim, self.config.count)
        return self.compose(classifier=classifier, passes=("plain",))


# %%
# Learn
# -----
#
# `register` has entered the name, so the method runs like a built-in one. In the repository the
# file is `edgecl/edgecl/methods/nearest_examples.py`, and the command line finds it too. The
# picture compares; to choose `count`, use held-out training images, never the test images.

backbone = load_backbone("vit-s14", image_size=56, depth=6)
stream = load_stream("emoji-demo", tasks=3)
found = {}
for count in (1, 2, 3, 4):
    run = work / f"run-{count}"
    learner = new_learner(run, "nearest-examples", backbone, stream, config={"count": count})
    found[f"{count} per class"] = learn_stream(learner, stream).a_last
baseline = new_learner(work / "simplecil", "simplecil", backbone, stream)
found["class mean (simplecil)"] = learn_stream(baseline, stream).a_last

figure, axis = plt.subplots(figsize=(7, 2.4))
bars = axis.barh(list(found), [100 * value for value in found.values()])
axis.bar_label(bars, fmt="%.0f", padding=3)
axis.set(xlabel="accuracy over three tasks, percent", xlim=(0, 100))
axis.invert_yaxis()
figure.tight_layout()

# %%
# Export
# ------
#
# The export compares the graphs with PyTorch before it writes the bundle. The device has no code of
# the method: it runs the graphs, and takes the examples from the packs.

export_bundle(learner, work / "bundle")
export_packs(learner, work / "packs")
export_release(work / "packs", work / "release", work / "bundle")
device = Classifier.open(work / "bundle", work / "release")

right = total = 0
for task in stream.tasks:
    answers = device.predict([task.test.image(index) for index in range(len(task.test))])
    for answer, label in zip(answers, task.test.labels, strict=True):
        right += answer.label == stream.classes[label]
        total += 1
print(f"the learner, 4 per class: {found['4 per class']:.1%}")
print(f"the device, 4 per class:  {right / total:.1%}")

scratch.cleanup()

"""Classifiers: from the features of one image to one score per row.

A class owns one row or, where it comes back in another domain, several.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.vit import Features
from edgecl.program.fitting import Fitted, TaskView
from edgecl.program.learned import Learned, Tensors, normal, zeros
from edgecl.program.matchers import Match
from edgecl.program.statistics import class_means


class Encoded(NamedTuple):
    """What the passes of a method made of the images; None where it has no such pass."""

    plain: Features | None
    match: Match
    injected: Features | None

    def features(self, which: str) -> Features:
        features = self.plain if which == "plain" else self.injected
        assert features is not None, f"the method declares no {which} pass"
        return features


@runtime_checkable
class Classifier(Protocol):
    """What a method's `classifier` must offer."""

    def declare(self) -> dict[str, Learned]: ...

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]: ...

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]: ...


@runtime_checkable
class ClosedForm(Classifier, Protocol):
    """A classifier whose rows come from the features of the task's images, without gradient.

    The view's `features["feature"]` holds what `feature` gives, [n, f].
    """

    def fit(self, task: TaskView) -> Fitted: ...


@dataclass(frozen=True)
class CosinePrototypes:
    """Class means of the [CLS] features of the passes side by side, compared by cosine.

    The means are of raw features and the passes are concatenated raw, so a pass of larger norm
    weighs more (Zhou et al., IJCV 2024, equation 5; https://arxiv.org/abs/2303.07338).
    """

    width: int  # d
    passes: tuple[str, ...]  # s

    def declare(self) -> dict[str, Learned]:
        sizes = {"s": len(self.passes), "d": self.width}
        return {"prototypes": Learned("c s d", sizes, concat_axis="c")}

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return torch.cat([encoded.features(which).cls for which in self.passes], dim=-1)

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        prototypes = learned["prototypes"].flatten(1)  # c s*d
        return F.normalize(self.feature(encoded), dim=-1) @ F.normalize(prototypes, dim=-1).T

    def fit(self, task: TaskView) -> Fitted:
        """Return the class means."""
        means = class_means(task.features["feature"], task.labels, task.classes)
        return Fitted({"prototypes": means.unflatten(1, (len(self.passes), self.width))}, {})


@dataclass(frozen=True)
class Linear:
    """A linear head whose rows are appended task by task, or all replaced by every task."""

    width: int  # d
    on: Literal["cls", "prompt"]  # [CLS], or the mean over the prompt rows
    replaced: bool = False

    def declare(self) -> dict[str, Learned]:
        init = normal(0.02)  # as timm starts the head of a ViT
        axis = None if self.replaced else "c"
        return {
            "head_weight": Learned(
                "c d", {"d": self.width}, concat_axis=axis, init=init, trained=True
            ),
            "head_bias": Learned("c", {}, concat_axis=axis, init=zeros, trained=True),
        }

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        features = encoded.features("injected")
        return features.cls if self.on == "cls" else features.prompt

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        return F.linear(self.feature(encoded), learned["head_weight"], learned["head_bias"])


@dataclass(frozen=True)
class Texts:
    """Embeddings of the class names, compared by cosine under CLIP's temperature.

    Radford et al., ICML 2021, figure 3; https://arxiv.org/abs/2103.00020. A method that uses it
    gives the rows (`Method.start`, `derived` or `fit`), all of norm 1.
    """

    width: int  # f, that both towers share
    logit_scale: float  # the logarithm of the factor on the cosine
    on: Literal["plain", "injected"] = "plain"
    replaced: bool = False  # every task makes all rows anew

    def declare(self) -> dict[str, Learned]:
        axis = None if self.replaced else "c"
        return {"texts": Learned("c f", {"f": self.width}, concat_axis=axis)}

    def feature(self, encoded: Encoded) -> Float[Tensor, "b f"]:
        return F.normalize(encoded.features(self.on).cls, dim=-1)

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        return math.exp(self.logit_scale) * self.feature(encoded) @ learned["texts"].T

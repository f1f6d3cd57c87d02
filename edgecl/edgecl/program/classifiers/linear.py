"""A linear head."""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.base import Encoded
from edgecl.program.learned import Tensors, TensorSpec, normal, zeros


@dataclass(frozen=True)
class Linear:
    """A linear head whose rows are appended task by task, or all replaced by every task."""

    width: int  # d
    on: Literal["cls", "prompt"]  # [CLS], or the mean over the prompt rows
    replaced: bool = False

    def declare(self) -> dict[str, TensorSpec]:
        init = normal(0.02)  # as timm starts the head of a ViT
        axis = None if self.replaced else "c"
        return {
            "head_weight": TensorSpec(
                "c d", {"d": self.width}, concat_axis=axis, init=init, trained=True
            ),
            "head_bias": TensorSpec("c", {}, concat_axis=axis, init=zeros, trained=True),
        }

    def feature(self, encoded: Encoded) -> Float[Tensor, "b d"]:
        features = encoded.features("injected")
        return features.cls if self.on == "cls" else features.prompt

    def scores(self, encoded: Encoded, learned: Tensors) -> Float[Tensor, "b c"]:
        return F.linear(self.feature(encoded), learned["head_weight"], learned["head_bias"])

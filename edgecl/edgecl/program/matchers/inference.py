"""Matchers that classify the query."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.learned import Tensors, TensorSpec, normal, ones, uniform, zeros
from edgecl.program.matchers.base import Match, newest
from edgecl.program.task_rows import task_of, task_rows

NORM_EPS = 1e-6


@dataclass(frozen=True)
class TaskInference:
    """The task that owns the likeliest class, by a head of its own (HiDe-Prompt's TII).

    The head is linear on `embed`. The score is the probability of the class.
    """

    width: int  # d
    hidden: int  # e
    name: ClassVar[str] = "task-inference"

    def declare(self) -> dict[str, TensorSpec]:
        d, e = {"d": self.width}, {"e": self.hidden}
        out = uniform(self.hidden**-0.5)
        return {
            "inference_in": TensorSpec("e d", d | e, init=uniform(self.width**-0.5), trained=True),
            "inference_in_bias": TensorSpec("e", e, init=zeros, trained=True),
            "inference_out": TensorSpec("d e", d | e, init=out, trained=True),
            "inference_out_bias": TensorSpec("d", d, init=zeros, trained=True),
            "inference_scale": TensorSpec("d", d, init=ones, trained=True),
            "inference_shift": TensorSpec("d", d, init=zeros, trained=True),
            "inference_head": TensorSpec("c d", d, init=normal(0.02), trained=True),
            "inference_head_bias": TensorSpec("c", {}, init=zeros, trained=True),
            **task_rows(),
        }

    def embed(self, query: Float[Tensor, "b d"], learned: Tensors) -> Float[Tensor, "b d"]:
        """Return LN(q + W2 gelu(W1 q))."""
        hidden = F.gelu(F.linear(query, learned["inference_in"], learned["inference_in_bias"]))
        moved = F.linear(hidden, learned["inference_out"], learned["inference_out_bias"])
        scale, shift = learned["inference_scale"], learned["inference_shift"]
        return F.layer_norm(query + moved, (self.width,), scale, shift, NORM_EPS)

    def logits(self, query: Float[Tensor, "b d"], learned: Tensors) -> Float[Tensor, "b c"]:
        embedded = self.embed(query, learned)
        return F.linear(embedded, learned["inference_head"], learned["inference_head_bias"])

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        score, row = self.logits(query, learned).softmax(dim=-1).topk(1, dim=-1)
        return Match(task_of(row, learned), score)

    def own(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        """Match the newest task."""
        return newest(query, len(learned["task_rows"]))

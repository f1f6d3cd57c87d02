"""Blocks of class attention, one per task, after the backbone's last block.

A task's token attends to itself and to all tokens of an image and goes through a small MLP, both
after a LayerNorm and next to a residual path; the tokens of the image stay as they are.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.learned import Init, Tensors, TensorSpec, normal, ones, zeros

NORM_EPS = 1e-5
PADDED = -1e4  # added to the attention logits of padded rows; finite in float16


@dataclass(frozen=True)
class TaskBlocks:
    """One block and one token per task; all tasks run together.

    The query is the same for every image, so keys and values are never computed: the weights of
    queries and keys become one direction per head, with which the rows are compared, and the
    weights of values meet the attended mean of the rows. Rows are normalised once for all tasks,
    the scale and shift of a task's norm follow. A bias of the keys would add the same to all
    logits, so there is none. Of 2 d^2 multiplications per row and task, 2 d h remain.
    """

    width: int  # d
    head: int = 64  # e, width of a head
    ratio: float = 0.5  # hidden width of the MLP over d

    def declare(self) -> dict[str, TensorSpec]:
        heads = max(1, self.width // self.head)
        every = {"d": self.width, "h": heads, "e": self.head, "u": int(self.width * self.ratio)}

        def per_task(axes: str, init: Init = zeros) -> TensorSpec:
            sizes = {axis: every[axis] for axis in axes.split()}
            return TensorSpec(f"t {axes}", sizes, "t", {"t": 1}, init=init, trained=True)

        weight = normal(0.02)
        return {
            "task_tokens": per_task("d", weight),
            "attention_scale": per_task("d", ones),
            "attention_shift": per_task("d"),
            "attention_query": per_task("h d e", weight),
            "attention_query_bias": per_task("h e"),
            "attention_key": per_task("h d e", weight),
            "attention_value": per_task("h d e", weight),
            "attention_value_bias": per_task("h e"),
            "attention_out": per_task("h e d", weight),
            "attention_out_bias": per_task("d"),
            "mlp_scale": per_task("d", ones),
            "mlp_shift": per_task("d"),
            "mlp_in": per_task("d u", weight),
            "mlp_in_bias": per_task("u"),
            "mlp_out": per_task("u d", weight),
            "mlp_out_bias": per_task("d"),
        }

    def __call__(self, tokens: Float[Tensor, "b n d"], learned: Tensors) -> Float[Tensor, "t b d"]:
        """Return every task's token after its block; padded rows (zeros) get no weight."""
        token = learned["task_tokens"]
        x = token[:, None] + self._attend(tokens, token, learned)  # t b d
        inner = self._norm(x) * learned["mlp_scale"][:, None] + learned["mlp_shift"][:, None]
        hidden = F.gelu(inner @ learned["mlp_in"] + learned["mlp_in_bias"][:, None])
        return x + hidden @ learned["mlp_out"] + learned["mlp_out_bias"][:, None]

    def _attend(
        self, tokens: Float[Tensor, "b n d"], token: Float[Tensor, "t d"], learned: Tensors
    ) -> Float[Tensor, "t b d"]:
        rows, own = self._norm(tokens), self._norm(token)
        scale, shift = learned["attention_scale"], learned["attention_shift"]
        query = (own * scale + shift)[:, None, None] @ learned["attention_query"]  # t h 1 e
        query = query.squeeze(2) + learned["attention_query_bias"]
        toward = (learned["attention_key"] @ query.unsqueeze(-1)).squeeze(-1)  # t h d
        toward = toward * scale[:, None] * self.head**-0.5
        of_own = (toward * own[:, None]).sum(dim=-1).flatten()  # t*h
        padding = (tokens.abs().amax(dim=-1, keepdim=True) == 0).to(rows.dtype)  # b n 1
        of_rows = rows @ toward.flatten(0, 1).T + padding * PADDED  # b n t*h
        logits = torch.cat([of_own.expand(rows.shape[0], 1, -1), of_rows], dim=1)
        weights = logits.softmax(dim=1)  # b 1+n t*h
        repeated = own[:, None].expand_as(toward).flatten(0, 1)  # t*h d
        mean = weights[:, 1:].transpose(1, 2) @ rows + weights[:, 0].unsqueeze(-1) * repeated
        mean = mean.unflatten(1, toward.shape[:2]).permute(1, 2, 0, 3)  # t h b d
        mean = mean * scale[:, None, None] + shift[:, None, None]
        values = mean @ learned["attention_value"] + learned["attention_value_bias"].unsqueeze(2)
        out = (values @ learned["attention_out"]).sum(dim=1)  # t b d
        return out + learned["attention_out_bias"][:, None]

    def _norm(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return F.layer_norm(x, (self.width,), eps=NORM_EPS)

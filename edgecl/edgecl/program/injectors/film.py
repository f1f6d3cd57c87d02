"""Injectors of rows that every block generates from its own tokens, modulated per task (FiLM)."""

from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from edgecl.backbones.sites import GeneratedTokens, Injection
from edgecl.program.injectors.base import Slot
from edgecl.program.learned import Tensors, TensorSpec, normal, ones, train_once, uniform, zeros
from edgecl.program.matchers import Match

SHORTEST = 1e-12  # no length is taken for less


@dataclass(frozen=True)
class FilmPrompts:
    """Rows before every block, made of its tokens, with a scale and shift per task (DAP).

    `down` makes a row a weighted sum of the normed tokens; the first task trains it, then it is
    frozen. The scale and the shift of a block are linear in the task's embedding, each of length 1.
    That map and the norms go on training in all tasks.
    """

    width: int  # d
    tokens: int  # n that a block generates from
    depth: int  # l
    length: int  # p, rows before a block
    embedding: int  # e, of a task
    site: str = field(default="tokens", init=False)

    def generator(self) -> dict[str, TensorSpec]:
        """Declare what makes rows of tokens, whatever the task."""
        block, length = {"l": self.depth}, {"p": self.length}
        norm = TensorSpec("l d", {**block, "d": self.width}, trained=True)
        down = TensorSpec(
            "l p n", {**block, "n": self.tokens}, start=length, init=zeros, trained=True
        )
        sums = {"prompt_down": down, "prompt_down_bias": replace(down, axes="l p", sizes=block)}
        return {
            "prompt_norm_scale": replace(norm, init=ones),
            "prompt_norm_shift": norm,
            **train_once(sums),
        }

    def film_map(self) -> dict[str, TensorSpec]:
        """Declare the map from a task's embedding to its scales and shifts (axis f)."""
        sizes = {"l": self.depth, "f": 2, "d": self.width}
        init = uniform(self.embedding**-0.5)  # as PyTorch starts a linear layer
        weight = TensorSpec("l e f d", {**sizes, "e": self.embedding}, init=init, trained=True)
        return {
            "film_weight": weight,
            "film_bias": TensorSpec("l f d", sizes, init=init, trained=True),
        }

    def embeddings(self) -> dict[str, TensorSpec]:
        sizes, start = {"e": self.embedding}, {"t": 1}
        item = TensorSpec("t e", sizes, "t", start=start, init=normal(1.0), trained=True)
        return {"task_embeddings": item}

    def declare(self) -> dict[str, TensorSpec]:
        return {**self.generator(), **self.film_map(), **self.embeddings()}

    def film(self, embeddings: Float[Tensor, "b e"], learned: Tensors) -> Float[Tensor, "b l 2 d"]:
        """Return scales and shifts; each has length 1, whose own gradient is left out."""
        weight, bias = learned["film_weight"].flatten(2), learned["film_bias"].flatten(1)
        mapped = (embeddings @ weight + bias.unsqueeze(1)).transpose(0, 1)  # b l 2*d
        mapped = mapped.unflatten(-1, (2, self.width))  # b l 2 d
        return mapped / mapped.detach().norm(dim=-1, keepdim=True).clamp(min=SHORTEST)

    def matched(self, match: Match, learned: Tensors) -> Float[Tensor, "b l 2 d"]:
        """Return scales and shifts of the matched tasks."""
        return self.film(learned["task_embeddings"][match.index[:, 0]], learned)

    def slots(self) -> dict[str, Slot]:
        sizes = {"l": self.depth, "f": 2, "d": self.width}
        slots = {"film": Slot("b l f d", sizes, None, 1, False, "match")}
        for name, item in self.generator().items():
            rows = "p" if "p" in item.axis_names else None
            masked = name == "prompt_down"
            slots[name] = Slot(item.axes, item.sizes, rows, self.length, masked, "learned")
        return slots

    def fill(self, match: Match, learned: Tensors) -> Tensors:
        shared = {name: learned[name] for name in self.generator()}
        return {"film": self.matched(match, learned), **shared}

    def sites(self, slots: Tensors) -> Injection:
        return tuple(
            GeneratedTokens(
                norm_scale=slots["prompt_norm_scale"][block],
                norm_shift=slots["prompt_norm_shift"][block],
                down=slots["prompt_down"][block],
                down_bias=slots["prompt_down_bias"][block],
                gamma=slots["film"][:, block, 0],
                beta=slots["film"][:, block, 1],
                block=block,
                mask=slots.get("prompt_down_mask"),
            )
            for block in range(self.depth)
        )


@dataclass(frozen=True)
class FilmSnapshots(FilmPrompts):
    """The same, with the scales and shifts of every task as its training left them.

    They are appended and the rest is trained once, so nothing of a former task moves. The map and
    the embedding are local to a task's training (`taken`).
    """

    def generator(self) -> dict[str, TensorSpec]:
        return train_once(super().generator())

    def declare(self) -> dict[str, TensorSpec]:
        sizes = {"l": self.depth, "f": 2, "d": self.width}
        return {**self.generator(), "task_film": TensorSpec("t l f d", sizes, "t", start={"t": 1})}

    def taken(self, learned: Tensors) -> Tensors:
        """Return what ships of the map and the embedding of the task that is learned."""
        return {"task_film": self.film(learned["task_embeddings"], learned)}

    def matched(self, match: Match, learned: Tensors) -> Float[Tensor, "b l 2 d"]:
        return learned["task_film"][match.index[:, 0]]

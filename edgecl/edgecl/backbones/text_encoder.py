"""Class names to embeddings: a CLIP's text tower as methods use it.

It runs on the workstation only; a device gets the embeddings, as learned tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import BackboneError, Clip
from edgecl.backbones.sites import Injection


@dataclass(frozen=True)
class ClassText:
    """How a text tower reads a class.

    Attributes:
        name: in place of {} in a template.
        templates: of the class's data set, which come before a method's; () where it has none.
    """

    name: str
    templates: tuple[str, ...] = ()


ClassName: TypeAlias = str | ClassText  # a plain name has no templates of its own


def class_texts(names: Sequence[str], templates: Sequence[str] = ()) -> tuple[ClassText, ...]:
    """Return how the names of one data set are read."""
    return tuple(ClassText(name, tuple(templates)) for name in names)


def read_name(name: ClassName) -> str:
    """Return what stands in place of {} in a template."""
    return name if isinstance(name, str) else name.name


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """A frozen text tower on the device of the training.

    Attributes:
        bfloat16: compute so in training; else in float32, as what ships is computed.
    """

    clip: Clip
    bfloat16: bool = False

    @property
    def device(self) -> torch.device:
        return self.clip.text.pos_embed.device

    def tokens(
        self, names: Sequence[ClassName], template: str, reserve: int = 0
    ) -> Int[Tensor, "c n"]:
        """Return the tokens of one template for all, with each class name in place of its {}.

        Args:
            reserve: tokens to leave free for a soft prompt that is inserted later.

        Raises:
            BackboneError: the template has no {}.
        """
        if "{}" not in template:
            raise BackboneError(
                f"A template must hold {{}} for the class name, got {template!r}. "
                "Write it so: a photo of a {}."
            )
        texts = [template.replace("{}", read_name(name)) for name in names]
        return self.clip.tokenizer(texts, reserve).to(self.device)

    def embed(
        self,
        tokens: Int[Tensor, "c n"],
        injection: Injection = (),
        context: Float[Tensor, "*g p w"] | None = None,
        *,
        training: bool = False,
    ) -> Float[Tensor, "c f"]:
        """Return one embedding of norm 1 per text, a function of that text alone.

        Args:
            injection: of the text tower's sites.
            context: a soft prompt after [SOS], of all texts or one for each (`TextTower`).
            training: a gradient is wanted, in bfloat16 where `bfloat16` is set.
        """
        low = self.bfloat16 and training
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            embeddings = self.clip.text(tokens, injection, context)
        return F.normalize(embeddings.float(), dim=-1)

    def averaged(
        self,
        names: Sequence[ClassName],
        templates: Sequence[str],
        injection: Injection = (),
        *,
        training: bool = False,
        first: bool = False,
    ) -> Float[Tensor, "c f"]:
        """Return the mean over templates of the names' embeddings, of norm 1.

        Args:
            templates: of names without templates of their own; () for those of the CLIP.
            first: read the first template of each alone.
        """

        def embed(some: Sequence[str], used: Sequence[str]) -> Tensor:
            each = [
                self.embed(self.tokens(some, template), injection, training=training)
                for template in used[: 1 if first else None]
            ]
            return F.normalize(torch.stack(each).mean(dim=0), dim=-1)

        return self.by_templates(names, templates, embed)

    def by_templates(
        self,
        names: Sequence[ClassName],
        templates: Sequence[str],
        embed: Callable[[Sequence[str], Sequence[str]], Tensor],
    ) -> Float[Tensor, "c f"]:
        """Return a row for each name, those with the same templates embedded together.

        Args:
            templates: of names without templates of their own; () for those of the CLIP.
            embed: makes a row of each of some names under the templates that it is given.
        """
        common = tuple(templates or self.clip.templates)
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, name in enumerate(names):
            own = () if isinstance(name, str) else name.templates
            groups.setdefault(own or common, []).append(row)
        plain = [read_name(name) for name in names]
        if len(groups) < 2:
            return embed(plain, next(iter(groups), common))
        parts = [embed([plain[row] for row in rows], used) for used, rows in groups.items()]
        order = torch.tensor([row for rows in groups.values() for row in rows])
        return torch.cat(parts)[order.argsort()]  # c f

    @torch.no_grad()
    def zero_shot(
        self, names: Sequence[ClassName], templates: Sequence[str] = ()
    ) -> Float[Tensor, "c f"]:
        """Return the embeddings of the CLIP as it is, on the CPU.

        Args:
            templates: of names without templates of their own; () for those of the CLIP.
        """
        if not names:
            return torch.zeros(0, self.clip.visual.width)
        return self.by_templates(names, templates, self.clip.encode_text).cpu()

"""Class names to embeddings: a CLIP's text tower as methods use it.

It runs on the workstation only; a device gets the embeddings, as learned tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import BackboneError, Clip
from edgecl.backbones.sites import Injection


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

    def tokens(self, names: Sequence[str], template: str, reserve: int = 0) -> Int[Tensor, "c n"]:
        """Return the tokens of a template with each class name in place of its {}.

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
        texts = [template.replace("{}", name) for name in names]
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
        names: Sequence[str],
        templates: Sequence[str],
        injection: Injection = (),
        *,
        training: bool = False,
    ) -> Float[Tensor, "c f"]:
        """Return the mean over templates of the names' embeddings, of norm 1.

        Args:
            templates: () for those of the CLIP.
        """
        used = templates or self.clip.templates
        each = [
            self.embed(self.tokens(names, template), injection, training=training)
            for template in used
        ]
        return F.normalize(torch.stack(each).mean(dim=0), dim=-1)

    @torch.no_grad()
    def zero_shot(
        self, names: Sequence[str], templates: Sequence[str] = ()
    ) -> Float[Tensor, "c f"]:
        """Return the embeddings of the CLIP as it is, on the CPU.

        Args:
            templates: () for those of the CLIP.
        """
        if not names:
            return torch.zeros(0, self.clip.visual.width)
        return self.clip.encode_text(names, templates or self.clip.templates).cpu()

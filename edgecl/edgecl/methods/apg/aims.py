"""What APG trains its generator and its head by."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.proxies import Proxies
from edgecl.program.injectors import AttendedPrompt
from edgecl.program.learned import Tensors

SMOOTHING = 0.1  # of the labels of images
LONGEST = 100.0  # times the length of [CLS], of a prompt; both in L1
TOO_LONG = 0.01  # weight of what is above it


@dataclass(frozen=True)
class Aims:
    """The losses of images and of draws."""

    prompt: AttendedPrompt
    head: Proxies

    def own(
        self,
        scores: Float[Tensor, "b c"],
        rows: Int[Tensor, " b"],
        x: Float[Tensor, "b d"],
        learned: Tensors,
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of images over all rows and over the tokens, and the bound.

        Args:
            rows: of the images, which are also those of their tokens.
            x: [CLS] where the prompt enters.
        """
        prompt, attention = self.prompt.made(x, learned)
        above = length(prompt) - LONGEST * length(x)
        each = F.cross_entropy(attention.flatten(0, 1), rows.repeat(self.prompt.heads))
        loss = F.cross_entropy(scores, rows, label_smoothing=SMOOTHING)
        return loss + each + TOO_LONG * above.relu()

    def held(self, drawn: Tensors, learned: Tensors) -> Float[Tensor, ""]:
        """Return how far draws are from their prompts, and their cross-entropy over all rows.

        Args:
            drawn: as `Draws` has them.
        """
        prompt, _ = self.prompt.made(drawn["x"], learned)
        scores = self.head.of(drawn["feature"], learned)
        return F.l1_loss(prompt, drawn["prompt"]) + F.cross_entropy(scores, drawn["row"])


def length(rows: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return the mean L1 norm."""
    return rows.abs().sum(dim=-1).mean()


def made_of(encoded: Encoded) -> Float[Tensor, "b d"]:
    """Return the [CLS] that the prompt is made of, before its block."""
    return encoded.taps("injected")[:, 0]

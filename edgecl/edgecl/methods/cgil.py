"""CGIL, continual generative training for incremental prompts (Frascaroli et al., BMVC 2024).

https://arxiv.org/abs/2407.15793

Injection:  none.
Matcher:    none.
Classifier: cosine between the image feature and the class's text embedding under CLIP's
            temperature. The text is a context of the class's own, one that a network makes of the
            class's plain text feature, and the name. After every task the prompts of all classes
            are trained again on features that a variational autoencoder per class draws, the
            present classes' too, so all rows are replaced: on the device a new matrix.
Differs from the paper: a step sees as many fresh features of every class, under a learning rate
            that anneals, in few steps (the public code runs through 256 features of each class, 30
            times and more, at a constant rate); the latent's log-variance is one where it is
            sampled too; the network standardises over the classes (as the public code runs, its
            does not) and ends with the moments over all seen classes, so an embedding that ships is
            a function of its class alone; smaller autoencoders, whose encoder is not kept; classes
            to come are scored by normalised embeddings; a class that comes back in another domain
            has an autoencoder and a row in each.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgecl.config import at_least
from edgecl.errors import MethodError
from edgecl.methods import register
from edgecl.methods.base import Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.class_prompts import ClassPrompts, PromptsConfig
from edgecl.methods.shared.vae import VaeSizes, drawn_features, fit_vaes
from edgecl.optim import check_finite
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors


@dataclass(frozen=True)
class CGILConfig(PromptsConfig):
    """The prompts, and the autoencoders."""

    hidden: int = 64  # h, width of an autoencoder's hidden layers
    latent: int = 8  # z; with few images more of it draws closer to their mean
    steps: int = 300  # of an autoencoder's training
    lr: float = 3e-3  # of an autoencoder's training, at the start

    def __post_init__(self) -> None:
        at_least(1, "cgil", hidden=self.hidden, latent=self.latent, steps=self.steps)
        if not self.lr > 0:
            raise MethodError(f"cgil.lr must be above 0, got {self.lr}. Use 3e-3.")


@register
class CGIL(ClassPrompts[CGILConfig]):
    """Text prompts trained on generated image features of all classes."""

    name: ClassVar[str] = "cgil"
    title: ClassVar[str] = "CGIL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.15793"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=2e-6, points=-0.3)
    config_type: ClassVar[type[MethodConfig]] = CGILConfig

    def remember(self, task: TaskContext) -> Tensors:
        """Return a VAE per row of the classifier, those of the task's rows last."""
        c = self.config
        sizes = VaeSizes(c.hidden, c.latent, c.steps, c.lr)
        features, device = task.features["feature"], task.text.device
        vaes = fit_vaes(features, task.labels, task.classes, sizes, task.generator, device)
        check_finite(vaes, "cgil's autoencoders", c.lr, "lr")
        if not task.index:
            return vaes
        return {name: torch.cat([task.state[name], new]) for name, new in vaes.items()}

    def draw(
        self, memory: Tensors, count: int, generator: torch.Generator
    ) -> Float[Tensor, "c m f"]:
        return drawn_features(memory, count, generator)

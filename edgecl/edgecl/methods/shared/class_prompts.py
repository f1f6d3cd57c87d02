"""Prompts of class names, trained again for all classes after every task, on features alone.

Frascaroli et al., CGIL, BMVC 2024, https://arxiv.org/abs/2407.15793. Before the class name
are a context of the class's own and one that a small network makes of the name's plain text
feature. The methods differ in where the features come from.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import ClassName, TextEncoder
from edgecl.methods.shared.text_method import TextMethod, TextMethodConfig, text_spec
from edgecl.optim import TrainConfig, check_finite, descend, make_annealing, make_optimizer
from edgecl.program import Program
from edgecl.program.classifiers import Encoded, Texts
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, normal, uniform

LAYERS = 4  # of the network
CONTEXTS = 2  # rows before a name
EPS = 1e-5  # added to the variance over the classes
START = 0.02  # spread of a class's context before training, as that of CLIP's tokens

Moments: TypeAlias = list[tuple[Tensor, Tensor]]  # mean and variance before each activation


@dataclass(frozen=True)
class PromptsConfig(TextMethodConfig):
    """The texts, and the training: an epoch is one step on `batch_size` features of every class."""

    templates: tuple[str, ...] = ()  # of the plain text feature; none: those of the CLIP
    template: str = "{}."  # after the contexts
    schedule: TrainConfig = TrainConfig("adam", lr=0.01, epochs=40, batch_size=16)


@dataclass(frozen=True, eq=False)
class Names:
    """What is fixed of the classes that have a row."""

    tokens: Int[Tensor, "c n"]
    plain: Float[Tensor, "c f"]  # raw text features

    @classmethod
    @torch.no_grad()
    def of(
        cls, text: TextEncoder, names: Sequence[ClassName], template: str, templates: Sequence[str]
    ) -> "Names":
        """Read the names; the plain feature is the mean over the templates, not normalised."""

        def plain(some: Sequence[str], used: Sequence[str]) -> Tensor:
            return torch.stack([text.clip.text(text.tokens(some, one)) for one in used]).mean(dim=0)

        features = text.by_templates(names, templates, plain)
        return cls(text.tokens(names, template, CONTEXTS), features)


PromptsConfigT = TypeVar("PromptsConfigT", bound=PromptsConfig)


class ClassPrompts(TextMethod[PromptsConfigT]):
    """A method whose text embeddings are all made anew by every task.

    The prompts stay on the workstation, with what the method remembers of the classes.
    """

    def build(self) -> Program:
        scale = text_spec(self.spec).logit_scale
        return self.compose(
            classifier=Texts(self.spec.feature_dim, scale, replaced=True), passes=("plain",)
        )

    @abstractmethod
    def remember(self, task: TaskContext) -> Tensors:
        """Return what `draw` needs of all classes so far.

        `task.state` holds that of the former tasks, `task.features` the raw features of this one.
        """

    @abstractmethod
    def draw(
        self, memory: Tensors, count: int, generator: torch.Generator
    ) -> Float[Tensor, "c m f"]:
        """Return raw image features of every row of the classifier, as many of each."""

    def fit(self, task: TaskContext) -> FitResult:
        """Train the prompts of all class rows with cross-entropy over all of them."""
        text = task.text
        task = replace(task, features=task.encode(plain_features))
        config, device = self.config, text.device
        memory = self.remember(task)
        there = {name: tensor.to(device) for name, tensor in memory.items()}
        names = Names.of(text, task.row_texts, config.template, config.templates)
        prompts = continued_prompts(task, self.spec)
        leaves = {name: tensor.to(device).requires_grad_() for name, tensor in prompts.items()}
        schedule = config.schedule.of(task.index)
        optimizer = make_optimizer(schedule, list(leaves.values()))
        count = schedule.batch_size
        epochs = schedule.epochs_for(count)  # of one step
        annealing = make_annealing(optimizer, schedule, epochs)
        labels = torch.arange(len(task.class_rows), device=device).repeat_interleave(count)
        factor = torch.tensor(text_spec(self.spec).logit_scale).exp().to(device)
        for _ in range(epochs):
            features = F.normalize(self.draw(there, count, task.generator), dim=-1).flatten(0, 1)
            texts = embedded(text, leaves, names)
            loss = F.cross_entropy(factor * features @ texts.T, labels)
            descend(loss, optimizer, schedule.clip)
            annealing.step()
        check_finite(leaves, self.name, schedule.lr, config.schedule.lr_setting(task.index))
        with torch.no_grad():
            texts = embedded(text, leaves, names, moments_of(leaves, names.plain))
        trained = {name: leaf.detach().cpu() for name, leaf in leaves.items()}
        return FitResult({"texts": texts.cpu()}, {**memory, **trained})


def plain_features(encoded: Encoded, learned: Tensors) -> Tensors:
    """Return the raw image features."""
    return {"feature": encoded.features("plain").cls}


def continued_prompts(task: TaskContext, spec: BackboneSpec) -> Tensors:
    """Return the former tasks' prompts and network, and a fresh context for every new row."""
    f, w = spec.feature_dim, text_spec(spec).width
    contexts = normal(START)((task.classes, w), task.generator)
    if task.index:
        prompts = {name: tensor for name, tensor in task.state.items() if name.startswith("prompt")}
        return {**prompts, "prompt_contexts": torch.cat([prompts["prompt_contexts"], contexts])}
    prompts = {"prompt_contexts": contexts}
    widths = (f, f, f, w, w)
    for layer in range(LAYERS):
        rows, columns = widths[layer : layer + 2]
        init = uniform(rows**-0.5)  # as torch starts a linear layer
        prompts[f"prompt_weight_{layer}"] = init((columns, rows), task.generator)
        prompts[f"prompt_bias_{layer}"] = init((columns,), task.generator)
        if layer < LAYERS - 1:
            prompts[f"prompt_scale_{layer}"] = torch.ones(columns)
            prompts[f"prompt_shift_{layer}"] = torch.zeros(columns)
    return prompts


def embedded(
    text: TextEncoder, prompts: Tensors, names: Names, moments: Moments | None = None
) -> Float[Tensor, "c f"]:
    """Return the classes' embeddings; with moments each is a function of its own class alone."""
    made, _ = generated(prompts, names.plain, moments)
    contexts = torch.stack([prompts["prompt_contexts"], made], dim=1)  # c 2 w
    return text.embed(names.tokens, context=contexts, training=moments is None)


def moments_of(prompts: Tensors, plain: Float[Tensor, "c f"]) -> Moments:
    """Return the moments over these classes, at which inference is frozen."""
    return generated(prompts, plain)[1]


def generated(
    prompts: Tensors, plain: Float[Tensor, "c f"], moments: Moments | None = None
) -> tuple[Float[Tensor, "c w"], Moments]:
    """Make a context of each plain text feature.

    Args:
        moments: to standardise by; those over the given classes if there are none, as in training.

    Returns:
        The contexts, and the moments that were used.
    """
    x, used = plain, []
    for layer in range(LAYERS):
        x = F.linear(x, prompts[f"prompt_weight_{layer}"], prompts[f"prompt_bias_{layer}"])
        if layer == LAYERS - 1:
            break
        mean, variance = moments[layer] if moments else (x.mean(dim=0), x.var(dim=0, correction=0))
        used.append((mean, variance))
        x = (x - mean) * (variance + EPS).rsqrt()
        x = F.selu(x * prompts[f"prompt_scale_{layer}"] + prompts[f"prompt_shift_{layer}"])
    return x, used

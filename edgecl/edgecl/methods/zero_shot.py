"""CLIP zero-shot (Radford et al., ICML 2021): the class names alone, nothing is trained.

https://arxiv.org/abs/2103.00020

Injection:  none.
Matcher:    none.
Classifier: cosine between the image feature and the class's text embedding, the mean over the
            templates of normalised embeddings, normalised again (section 3.1.4), under CLIP's
            temperature. A task ships the rows of its classes.
Differs from the paper: nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

from edgecl.backbones.spec import BackboneSpec
from edgecl.methods import register
from edgecl.methods.base import Pass
from edgecl.methods.shared.text_method import TextMethod, text_spec
from edgecl.program.classifiers import Texts
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors


@dataclass(frozen=True)
class ZeroShotConfig:
    """The templates."""

    templates: tuple[str, ...] = ()  # {} stands for the class name; none: those of the CLIP


@register
class ZeroShot(TextMethod):
    """Text embeddings of the class names."""

    name: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "CLIP zero-shot"
    paper: ClassVar[str] = "https://arxiv.org/abs/2103.00020"
    family: ClassVar[str] = "vision-language"
    config_type: ClassVar[type] = ZeroShotConfig
    passes: tuple[Pass, ...] = ("plain",)

    def build(self, config: ZeroShotConfig, spec: BackboneSpec) -> None:
        self.classifier = Texts(spec.feature_dim, text_spec(spec).logit_scale)

    def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
        """Return the embeddings of the task's classes."""
        assert task.text is not None, "the method needs text"
        return {**fresh, "texts": task.text.zero_shot(task.names, self.config.templates)}

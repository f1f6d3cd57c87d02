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

from edgecl.methods import register
from edgecl.methods.base import Forgets, Status
from edgecl.methods.config import MethodConfig
from edgecl.methods.shared.named_rows import NamedRows
from edgecl.methods.shared.text_method import TextMethodConfig, text_spec
from edgecl.program import Program
from edgecl.program.classifiers import Texts


@dataclass(frozen=True)
class ZeroShotConfig(TextMethodConfig):
    """The templates."""


@register
class ZeroShot(NamedRows[ZeroShotConfig]):
    """Text embeddings of the class names."""

    name: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "CLIP zero-shot"
    paper: ClassVar[str] = "https://arxiv.org/abs/2103.00020"
    family: ClassVar[str] = "vision-language"
    status: ClassVar[Status] = Status(steps=7e-7)
    forgets: ClassVar[Forgets] = "rows"
    config_type: ClassVar[type[MethodConfig]] = ZeroShotConfig

    def build(self) -> Program:
        classifier = Texts(self.spec.feature_dim, text_spec(self.spec).logit_scale)
        return self.compose(classifier=classifier, passes=("plain",))

    def task_end(self) -> str:
        """Return nothing: nothing is learned."""
        return ""

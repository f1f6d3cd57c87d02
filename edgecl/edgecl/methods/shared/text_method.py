"""What the methods on a CLIP share: classes that were not learned are scored by their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from edgecl.backbones.spec import BackboneSpec, TextSpec
from edgecl.backbones.text_encoder import ClassName, TextEncoder
from edgecl.errors import MethodError
from edgecl.methods.base import Method
from edgecl.methods.config import MethodConfig
from edgecl.program import Tensors


@dataclass(frozen=True)
class TextMethodConfig(MethodConfig):
    """The templates."""

    templates: tuple[str, ...] = ()  # {} stands for the class name; none: those of the CLIP


TextConfigT = TypeVar("TextConfigT", bound=TextMethodConfig)


class TextMethod(Method[TextConfigT]):
    """A method that reads class names by the text tower."""

    needs_text: ClassVar[bool] = True

    def zero_shot_rows(
        self, text: TextEncoder, names: Sequence[ClassName], learned: Tensors
    ) -> Tensors:
        """Return class rows for classes that were not learned, by their names alone.

        One tensor for each that has the axis c. They rank classes that the protocols ask for
        before their task; they never ship. Here they are CLIP's own embeddings.

        Args:
            learned: with what `fit` left as state.
        """
        return {"texts": text.zero_shot(names, self.config.templates)}


def text_spec(spec: BackboneSpec) -> TextSpec:
    """Return the sizes of the text tower.

    Raises:
        MethodError: if the backbone has none.
    """
    if spec.text is None:
        raise MethodError(
            "A method that reads class names needs a CLIP, got a backbone without a text tower. "
            "Use --backbone edgecl-clip-s, or another CLIP."
        )
    return spec.text

"""What the methods on a CLIP share: classes that were not learned are scored by their names."""

from collections.abc import Sequence
from typing import ClassVar

from edgecl.backbones.spec import BackboneSpec, TextSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.methods.base import Method
from edgecl.program.classifiers import Texts
from edgecl.program.learned import Tensors


class TextMethod(Method):
    """A method that needs the text tower; its configuration has `templates`, () for the CLIP's."""

    needs_text: ClassVar[bool] = True
    classifier: Texts

    def unseen(self, text: TextEncoder, names: Sequence[str], learned: Tensors) -> Tensors:
        """Return CLIP's own embeddings."""
        return {"texts": text.zero_shot(names, self.config.templates)}


def text_spec(spec: BackboneSpec) -> TextSpec:
    """Return the text side of the place of a method that needs one."""
    assert spec.text is not None, "checked when the method is built"
    return spec.text

"""What the methods on a CLIP share: classes that were not learned are scored by their names."""

from collections.abc import Sequence
from typing import ClassVar

from edgecl.backbones.text_encoder import TextSide
from edgecl.methods.base import Method, Place, TextPlace
from edgecl.program.classifiers.base import Texts
from edgecl.program.learned import Tensors


class TextMethod(Method):
    """A method that needs the text tower; its configuration has `templates`, () for the CLIP's."""

    needs_text: ClassVar[bool] = True
    classifier: Texts

    def unseen(self, text: TextSide, names: Sequence[str], learned: Tensors) -> Tensors:
        """Return CLIP's own embeddings."""
        return {"texts": text.zero_shot(names, self.config.templates)}


def towers(place: Place) -> TextPlace:
    """Return the text side of the place of a method that needs one."""
    assert place.text is not None, "checked when the method is built"
    return place.text

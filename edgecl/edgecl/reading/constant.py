"""Pictures of one colour: why they are, and whether a task can be learned without them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from edgecl.backbones import Preprocess
from edgecl_deploy.images import WIDE_MODES


@dataclass(frozen=True)
class Constant:
    """A picture that has one colour after preprocessing.

    Attributes:
        why: what took the rest.
        advice: what to do.
    """

    name: str
    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"

    @classmethod
    def of(cls, name: str, image: Image.Image, preprocess: Preprocess) -> "Constant":
        """Find out why a picture has one colour."""
        if image.mode in WIDE_MODES:
            levels = np.asarray(image)
            finite = levels[np.isfinite(levels)]
            if finite.size and finite.min() < finite.max():
                low, high = preprocess.window or (0.0, 0.0)
                return cls(
                    name,
                    f"its levels, {finite.min():g} to {finite.max():g}, are one grey in the window "
                    f"{low:g} to {high:g}",
                    "Begin a run with `--window LOW,HIGH`, the levels that become black and white.",
                )
        elif image.has_transparency_data:
            return cls(
                name,
                f"it has one colour over the background {preprocess.background}",
                "Begin a run with `--background R,G,B`, another colour than the drawings have.",
            )
        elif preprocess.fit == "crop" and not is_constant(np.asarray(image.convert("RGB"))):
            return cls(
                name,
                "the part that the crop leaves has one colour",
                "Begin a run with `--resize pad`, which cuts nothing off.",
            )
        return cls(name, "it has one colour", "Replace these pictures, or drop the class.")


def is_constant(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Return whether a picture has one colour."""
    return bool((pixels == pixels[0, 0]).all())


def complaint(
    task: str, classes: Sequence[str], of_image: Sequence[str], constant: Mapping[int, Constant]
) -> str:
    """Return what is wrong with a task; nothing if enough is left of it.

    Args:
        classes: of the task; each has an image.
        of_image: the class of every image.
        constant: those of one colour, by their positions.
    """
    left = {name for index, name in enumerate(of_image) if index not in constant}
    empty = [name for name in classes if name not in left]
    if not empty and 2 * len(constant) <= len(of_image):
        return ""
    which = f"all of {empty[0]!r}, " if empty else ""
    shown = next(at for at in constant if not empty or of_image[at] == empty[0])
    return (
        "Every class, and half of the pictures of a task, must be more than one plain colour after "
        f"preprocessing, got {which}{len(constant)} of {len(of_image)} of {task} that are not "
        f"({constant[shown]}). {constant[shown].advice}"
    )

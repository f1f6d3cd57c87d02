"""Stream `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, 5 tasks of 2."""

from dataclasses import dataclass

import numpy as np

from edgecl.streams._build import DataSet, class_incremental
from edgecl.streams._errors import StreamError
from edgecl.streams._options import ClassOptions, HeldOutOptions
from edgecl.streams._registry import register_stream
from edgecl.streams._select import hold_out
from edgecl.streams._sources import ArraySource
from edgecl.streams._types import ImageSet, Stream


@dataclass(frozen=True)
class DigitsOptions(HeldOutOptions, ClassOptions):
    """Options of `digits`."""


@register_stream("digits", DigitsOptions)
def digits(options: DigitsOptions) -> Stream:
    """Build the stream; the seed draws the test images, the same fraction of each class.

    Raises:
        StreamError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise StreamError(
            "Stream 'digits' needs scikit-learn, which is not installed. Install edgecl[digits]."
        ) from error
    bunch = load_digits()
    pixels = np.rint(np.asarray(bunch.images) * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    labels = [int(label) for label in bunch.target]
    images = ImageSet.of(ArraySource(pixels), labels, [f"digits[{i}]" for i in range(len(labels))])
    classes = tuple(str(i) for i in range(10))
    names = dict(enumerate(classes))
    train, test = hold_out(images, options.fraction, names, "digits", options.seed)
    return class_incremental(DataSet(classes, train, test), options, options.increment or 2)

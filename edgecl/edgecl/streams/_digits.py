"""Stream `digits`: scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, 5 tasks of 2."""

import numpy as np

from edgecl.streams._build import DataSet, class_incremental
from edgecl.streams._errors import StreamError
from edgecl.streams._registry import StreamOptions, register_stream
from edgecl.streams._select import hold_out
from edgecl.streams._sources import ArraySource
from edgecl.streams._types import ImageSet, Stream

TEST_FRACTION = 0.2


@register_stream("digits", uses=("test_fraction",))
def digits(options: StreamOptions) -> Stream:
    """Build the stream; the test split is stratified and drawn by the seed.

    Raises:
        StreamError: if scikit-learn is not installed.
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
    names = [f"digits[{i}]" for i in range(len(labels))]
    images = ImageSet.of(ArraySource(pixels), labels, names)
    classes = tuple(str(i) for i in range(10))
    fraction = TEST_FRACTION if options.test_fraction is None else options.test_fraction
    train, test = hold_out(images, fraction, dict(enumerate(classes)), "digits", options.seed)
    return class_incremental(DataSet(classes, train, test), options, options.increment or 2)

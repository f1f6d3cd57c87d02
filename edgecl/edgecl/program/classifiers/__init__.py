"""Classifiers: from the features of one image to one score per class row."""

from edgecl.program.classifiers.base import Classifier, ClosedForm, Encoded
from edgecl.program.classifiers.linear import Linear
from edgecl.program.classifiers.prototypes import CosinePrototypes
from edgecl.program.classifiers.texts import Texts

__all__ = ["Classifier", "ClosedForm", "CosinePrototypes", "Encoded", "Linear", "Texts"]

"""What is exported: a program, its learned tensors, injectors, matchers and classifiers."""

from edgecl.program.classifiers import Encoded
from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.program import BackboneModel, LateMatcher, Outputs, Pass, Program

__all__ = [
    "BackboneModel",
    "Encoded",
    "LateMatcher",
    "Outputs",
    "Pass",
    "Program",
    "TensorSpec",
    "Tensors",
]

"""Continual learning on a frozen vision backbone, made to reach the device: the learner."""

from importlib.metadata import version

from edgecl.backbones import Backbone, load_backbone
from edgecl.errors import EdgeclError
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.methods import build_method, methods
from edgecl.streams import Stream, Task, load_stream

__all__ = [
    "Backbone",
    "EdgeclError",
    "Learner",
    "Run",
    "Stream",
    "Task",
    "__version__",
    "build_method",
    "load_backbone",
    "load_stream",
    "methods",
]

__version__ = version("edgecl")

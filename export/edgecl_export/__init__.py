"""Export an edgecl backbone once to ONNX, and what it learns as small weight packs."""

from importlib.metadata import version

__version__ = version("edgecl-export")

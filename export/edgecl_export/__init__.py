"""Export an edgecl backbone once to ONNX, and what it learns as small weight packs."""

__version__ = "0.1.0"

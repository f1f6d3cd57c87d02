"""The precisions in which programs run; apart, so that a command's help does not import numpy."""

PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int8-bfloat16")
_FILES = {"bfloat16": "float32", "int8-bfloat16": "int8"}  # of those without files of their own


def files_of(precision: str) -> str:
    """Return the precision whose files one runs."""
    return _FILES.get(precision, precision)

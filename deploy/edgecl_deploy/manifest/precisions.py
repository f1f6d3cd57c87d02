"""The precisions in which programs run; apart, so that a command's help does not import numpy."""

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
SHARED = ("float32", "bfloat16")  # those that run the files of float32

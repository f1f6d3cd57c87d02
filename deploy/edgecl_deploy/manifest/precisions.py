"""The precisions in which programs run; apart, so that a command's help does not import numpy."""

PRECISIONS = ("float32", "bfloat16", "float16", "int8", "int8-bfloat16")
FILES_OF = {"bfloat16": "float32", "int8-bfloat16": "int8"}  # those without files of their own

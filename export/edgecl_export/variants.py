"""Writes the graphs of a program in another precision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from edgecl_deploy.format import FileRef, Program, ProgramVariant
from edgecl_export.bundle import file_ref
from edgecl_export.weights import WeightsFile


def write_graphs(
    folder: Path,
    name: str,
    program: Program,
    precision: str,
    weights: str,
    change: Callable[[ir.Model, str], None],
) -> Program:
    """Write the graphs of a program that hold the backbone in another precision.

    Args:
        folder: of the bundle.
        name: of the program.
        weights: the name of the file that takes in their weights.
        change: rewrites a graph, given the name of its file.

    Returns:
        The entry of the program, with the variant.
    """
    held = WeightsFile(folder, weights)
    written: dict[str, FileRef] = {}

    def write(ref: FileRef) -> FileRef:
        if ref.file not in written:
            model = ir.load(folder / ref.file)
            change(model, ref.file)
            held.externalise(model)
            path = folder / ref.file.replace(f"{name}.", f"{name}.{precision}.", 1)
            ir.save(model, path)
            written[ref.file] = file_ref(path)
        return written[ref.file]

    staged = program.staged
    own = ProgramVariant(
        fused=write(program.fused),
        encode_dynamic=write(staged.encode_dynamic),
        encode_fixed=write(staged.encode_fixed),
    )
    return replace(program, variants={**program.variants, precision: own})

"""The reference of a variant: float graphs that have the values of the int8 weights.

numpy computes these values, so that an engine that reads int8 weights has something to equal.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from edgecl.backbones.rounding import Rounded
from edgecl_deploy.files import BUNDLE_FILE, BundleFiles
from edgecl_deploy.format import INT8, FileRef
from edgecl_export.bundle import file_ref
from edgecl_export.quantize.rewriting import read_rounded, uses
from edgecl_export.weights import WEIGHTS_FILE, WeightsFile


def write_dequantised(model: ir.Model, rounded: Mapping[str, Rounded], path: Path) -> FileRef:
    """Write a float graph with rounded weights, next to a weights file.

    Args:
        model: its weights change.
        path: of the graph.
    """
    for use in list(uses(model)):  # before any weight has another content
        value = use.node.inputs[1]
        assert value is not None
        value.const_value = ir.Tensor(rounded[use.key].dequantised(), name=use.weight)
    WeightsFile(path.parent).externalise(model)
    ir.save(model, path)
    return file_ref(path)


def write_reference(bundle: BundleFiles, name: str, folder: Path) -> Path:
    """Write a bundle of one program in float32 whose weights are those of its variant int8.

    Args:
        bundle: it has the variant.
        name: of the program.
        folder: to make.
    """
    folder.mkdir()
    program = bundle.bundle.programs[name]
    own, staged = program.variants[INT8], program.staged

    def write(floats: FileRef, variant: FileRef) -> FileRef:
        model, other = ir.load(bundle.path / floats.file), ir.load(bundle.path / variant.file)
        return write_dequantised(model, read_rounded(model, other), folder / floats.file)

    for ref in (staged.match, staged.classify):
        if ref is not None:
            shutil.copy2(bundle.path / ref.file, folder / ref.file)
    rounded = replace(
        program,
        fused=write(program.fused, own.fused),
        staged=replace(
            staged,
            encode_dynamic=write(staged.encode_dynamic, own.encode_dynamic),
            encode_fixed=write(staged.encode_fixed, own.encode_fixed),
        ),
        variants={},
    )
    reference = replace(
        bundle.bundle,
        weights=file_ref(folder / WEIGHTS_FILE),
        programs={name: rounded},
        variants={},
    )
    (folder / BUNDLE_FILE).write_bytes(reference.to_bytes())
    return folder

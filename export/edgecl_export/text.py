"""The text program: the text tower of a CLIP as a graph, for devices that embed new class names."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl_deploy import TextEncoder
from edgecl_deploy.format import TextProgram, write_merges
from edgecl_deploy.manifest.whole import sync
from edgecl_deploy.text import TEXT_FILE, check_templates, read_text
from edgecl_export import __version__
from edgecl_export.bundle import file_ref, recover, replace_folder
from edgecl_export.errors import GraphError
from edgecl_export.graphs import Input, Inputs, trace
from edgecl_export.weights import WEIGHTS_FILE, WeightsFile

GRAPH_FILE, MERGES_FILE = "text.onnx", "merges.txt"
TOLERANCE = 1e-5  # of a number of an embedding, whose norm is 1
NAMES = ("cat", "Fire  engine", "jack-o'-lantern")  # that every export is tried on
SHORTEST = 2  # [SOS] and [EOT]


@dataclass(frozen=True)
class TextExport:
    """What was exported; `max_error` is the largest of a number of an embedding."""

    digest: str
    clip: str
    backbone: str
    bytes: int
    max_error: float


def export_text(clip: Clip, out: str | Path, templates: Sequence[str] | None = None) -> TextExport:
    """Export the text tower, the tokenizer and the templates of a CLIP.

    The folder is made next to `out` and renamed, as a bundle's; a former text program is replaced.

    Args:
        templates: texts with {} for the name, instead of the CLIP's own.

    Raises:
        GraphError: if `out` is something else, or the graph differs from PyTorch.
    """
    templates = clip.templates if templates is None else templates
    out = Path(out)
    recover(out)
    if out.exists() and not (out / TEXT_FILE).is_file():
        raise GraphError(
            f"OUT must be new or a text program, got {out}, which holds no {TEXT_FILE}. "
            "Export to a new folder."
        )
    clip.encode_text(NAMES[:1], templates)  # raises an error for wrong templates
    check_templates(templates)
    work = out.with_name(f".{out.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_text(clip, templates, work)
    error = check_text(clip, templates, work)
    for path in [*work.iterdir(), work]:
        sync(path)
    replace_folder(work, out)
    program, digest = read_text(out)
    total = sum(ref.size for ref in program.files())
    return TextExport(digest, program.clip, program.backbone, total, error)


def write_text(clip: Clip, templates: Sequence[str], folder: Path) -> None:
    """Write the graph, its weights, the merges and the manifest."""
    config = clip.text.config

    def encode(inputs: Inputs) -> Inputs:
        return {"feature": F.normalize(clip.text(inputs["tokens"]), dim=-1)}

    tokens = Input(
        ("b", "n"), {}, torch.int64, least={"n": SHORTEST}, most={"n": config.context_length}
    )
    model = trace(clip.text, encode, {"tokens": tokens}, ("feature",))
    WeightsFile(folder).externalise(model)
    ir.save(model, folder / GRAPH_FILE)
    (folder / MERGES_FILE).write_bytes(write_merges(clip.tokenizer.merges()))
    program = TextProgram(
        clip=clip.digest,
        backbone=clip.visual.digest,
        width=clip.text.width,
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        logit_scale=clip.logit_scale,
        templates=tuple(templates),
        graph=file_ref(folder / GRAPH_FILE),
        weights=file_ref(folder / WEIGHTS_FILE),
        merges=file_ref(folder / MERGES_FILE),
        tolerance=TOLERANCE,
        created_by=f"edgecl-export {__version__}",
    )
    (folder / TEXT_FILE).write_bytes(program.to_bytes())


def check_text(clip: Clip, templates: Sequence[str], folder: Path) -> float:
    """Compare the device's encoder with PyTorch: on names, and on tokens of all lengths.

    Returns:
        The largest error of a number of an embedding.

    Raises:
        GraphError: if it is more than the tolerance.
    """
    device = TextEncoder.open(folder)
    pairs = [(device.embed(NAMES), clip.encode_text(NAMES, templates))]
    generator = torch.Generator().manual_seed(0)
    end, longest = device.tokenizer.end, clip.tokenizer.context_length
    for length in (SHORTEST, (SHORTEST + longest) // 2, longest):
        tokens = torch.randint(0, end, (SHORTEST, length), generator=generator)
        tokens[0, -1] = tokens[1, length // 2] = end  # what follows it must not count
        with torch.no_grad():
            pairs.append((device.encode(tokens.numpy()), F.normalize(clip.text(tokens), dim=-1)))
    error = float(np.max([np.abs(got - want.numpy()).max() for got, want in pairs]))
    if not error <= TOLERANCE:  # NaN fails too
        raise GraphError(
            f"The text program must equal PyTorch within {TOLERANCE:g}, got an error of "
            f"{error:.1e}. Nothing was exported; report this with the versions of torch and "
            "onnxruntime."
        )
    return error

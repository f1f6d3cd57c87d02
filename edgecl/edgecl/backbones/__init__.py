"""Frozen backbones: one ViT with sites, CNNs without; how they are named, loaded, identified."""

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._presets import list_backbones
from edgecl.backbones._torchvision import prepare_torchvision
from edgecl.backbones.loaders import Backbone, load_backbone
from edgecl.backbones.preprocess import Preprocess
from edgecl.backbones.vit import Features, ViT, ViTConfig
from edgecl.backbones.weights import fetch_weights, fetchable

__all__ = [
    "Backbone",
    "BackboneError",
    "Features",
    "Preprocess",
    "ViT",
    "ViTConfig",
    "fetch_weights",
    "fetchable",
    "list_backbones",
    "load_backbone",
    "prepare_torchvision",
]

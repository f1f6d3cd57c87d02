"""Import timm and open_clip, after torchvision was prepared for them."""

from typing import Any

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._torchvision import prepare_torchvision


def import_timm() -> Any:
    """Return the package timm."""
    prepare_torchvision()
    import timm

    return timm


def import_open_clip() -> Any:
    """Return the package open_clip.

    Raises:
        BackboneError: it is not installed.
    """
    prepare_torchvision()
    try:
        import open_clip
    except ImportError as error:
        raise BackboneError(
            "CLIP towers by name must be read with open_clip, which is not installed. "
            "Install it: pip install 'edgecl[clip]'."
        ) from error
    return open_clip

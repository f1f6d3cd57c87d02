"""The error of backbones."""

from edgecl.errors import EdgeclError


class BackboneError(EdgeclError):
    """A backbone that cannot be loaded or configured, or an injection that it cannot take."""

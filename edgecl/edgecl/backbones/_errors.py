"""The error of this room."""

from edgecl.errors import EdgeclError


class BackboneError(EdgeclError):
    """A backbone that cannot be loaded, configured or injected into as asked."""

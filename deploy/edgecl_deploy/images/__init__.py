"""The one definition of what an image is, for the learner, `edgecl export verify` and the device.

`opening`: which files are read, and within which limits. `pixels`: any mode to 8-bit RGB.
`preparing`: the square that a program takes. docs/images.md is its page.
"""

from edgecl_deploy.image_limits import (
    DEVICE_PIXELS,
    MAX_PIXELS,
    MOST_PIXELS,
    check_limit,
    workstation_pixels,
)
from edgecl_deploy.images.opening import MAX_FILE, Header, open_image, read_header
from edgecl_deploy.images.pixels import WIDE_MODES
from edgecl_deploy.images.preparing import (
    CHANNELS,
    Channels,
    ImageSource,
    Spec,
    enlarge,
    least_side,
    prepare,
)

__all__ = [
    "CHANNELS",
    "DEVICE_PIXELS",
    "MAX_FILE",
    "MAX_PIXELS",
    "MOST_PIXELS",
    "WIDE_MODES",
    "Channels",
    "Header",
    "ImageSource",
    "Spec",
    "check_limit",
    "enlarge",
    "least_side",
    "open_image",
    "prepare",
    "read_header",
    "workstation_pixels",
]

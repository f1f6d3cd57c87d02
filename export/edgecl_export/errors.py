"""The errors of the export toolchain, one root.

ExportError
├── ChannelError          a channel's repository cannot be changed or read as asked
├── GraphError            a graph cannot be made, or differs from PyTorch
├── LicenceError          a release may not run in a precision
├── MissingPackageError   a package of an extra is not installed
├── PackError             a run's tensors do not fit a pack
└── VerifyError           what was exported does not do what was trained
"""


class ExportError(Exception):
    """The root of all errors of this package: what must hold, what was found, what to do."""


class ChannelError(ExportError):
    """A channel's repository cannot be changed or read as asked."""


class GraphError(ExportError):
    """A graph cannot be made, or differs from PyTorch."""


class LicenceError(ExportError):
    """A release may not run in a precision: it would decide otherwise, or nothing measures it."""


class MissingPackageError(ExportError, ImportError):
    """A package that an extra of edgecl-export brings is not installed."""


class PackError(ExportError):
    """A run's tensors do not fit a pack."""


class VerifyError(ExportError):
    """What was exported does not do what was trained."""

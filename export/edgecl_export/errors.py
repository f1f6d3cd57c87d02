"""The errors of the export toolchain, one root.

ExportError
├── ChannelError   a channel's repository cannot be changed or read as asked
├── GraphError     a graph cannot be made, or does not say what PyTorch says
├── PackError      a run's tensors do not fit a pack
└── VerifyError    what was exported does not do what was trained
"""


class ExportError(Exception):
    """Something that the user can mend: says what must hold, what was found and what to do."""


class ChannelError(ExportError):
    """A channel's repository cannot be changed or read as asked."""


class GraphError(ExportError):
    """A graph cannot be made, or does not say what PyTorch says."""


class PackError(ExportError):
    """A run's tensors do not fit a pack."""


class VerifyError(ExportError):
    """What was exported does not do what was trained."""

"""The errors of the learner, one root.

EdgeclError
└── MethodError
"""


class EdgeclError(Exception):
    """Something that the user can mend: states what must hold, what was found, what to do."""


class MethodError(EdgeclError):
    """A method cannot be found, configured or run on this backbone."""

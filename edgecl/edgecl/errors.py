"""The errors of the learner, one root.

EdgeclError
"""


class EdgeclError(Exception):
    """Something that the user can mend: says what must hold, what was found and what to do."""

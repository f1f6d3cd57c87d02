"""Errors of the data room.

EdgeclError
└── StreamError            whoever chose the stream or its options must act
    └── BrokenImageError   whoever owns that one file must act; the learner skips it and counts it
"""

from edgecl.errors import EdgeclError


class StreamError(EdgeclError):
    """A stream cannot be built as it was asked for."""


class BrokenImageError(StreamError):
    """One image cannot be decoded; the message names it."""

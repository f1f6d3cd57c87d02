"""Errors of streams.

EdgeclError
└── StreamError            whoever chose the stream or its options must act
    └── BrokenImageError   whoever owns that one file must act; the learner skips and counts it
"""

from edgecl.errors import EdgeclError


class StreamError(EdgeclError):
    """A stream cannot be built from these options."""


class BrokenImageError(StreamError):
    """One image cannot be decoded; the message has its name."""

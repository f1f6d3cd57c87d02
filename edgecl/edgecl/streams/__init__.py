"""Streams: data sets as sequences of tasks. docs/streams.md lists and describes them."""

from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl.streams._openemoji_fetch import fetch_openemoji10, is_unseen
from edgecl.streams._options import (
    ClassOptions,
    HeldOutOptions,
    ProtocolOptions,
    StreamOptions,
    option,
)
from edgecl.streams._registry import load_stream, register_stream, stream_names, takes_option
from edgecl.streams._select import class_order, split_validation
from edgecl.streams._sources import ArraySource, ImageSource, PathSource, ZipSource, open_image
from edgecl.streams._types import STREAM_PROTOCOLS, Files, ImageSet, Reason, Stream, Task
from edgecl.streams._unpack import unpack
from edgecl.streams.folders import task_from_folder

__all__ = [
    "STREAM_PROTOCOLS",
    "ArraySource",
    "BrokenImageError",
    "ClassOptions",
    "Files",
    "HeldOutOptions",
    "ImageSet",
    "ImageSource",
    "PathSource",
    "ProtocolOptions",
    "Reason",
    "Stream",
    "StreamError",
    "StreamOptions",
    "Task",
    "ZipSource",
    "class_order",
    "fetch_openemoji10",
    "is_unseen",
    "load_stream",
    "open_image",
    "option",
    "register_stream",
    "split_validation",
    "stream_names",
    "takes_option",
    "task_from_folder",
    "unpack",
]

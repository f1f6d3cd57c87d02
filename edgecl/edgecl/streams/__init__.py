"""Streams: data sets as sequences of tasks. docs/streams.md says which there are."""

from edgecl.streams import _digits as _digits  # importing them registers their streams
from edgecl.streams import _emoji_demo as _emoji_demo
from edgecl.streams import _fashion_mnist as _fashion_mnist
from edgecl.streams import _mtil_mini as _mtil_mini
from edgecl.streams import _openemoji as _openemoji
from edgecl.streams import _torchvision as _torchvision
from edgecl.streams._errors import BrokenImageError, StreamError
from edgecl.streams._folder import task_from_folder
from edgecl.streams._openemoji_fetch import fetch_openemoji10, is_unseen
from edgecl.streams._registry import (
    StreamOptions,
    load_stream,
    register_stream,
    stream_names,
    takes_option,
)
from edgecl.streams._select import class_order, split_validation
from edgecl.streams._sources import ArraySource, ImageSource, PathSource, ZipSource, open_image
from edgecl.streams._types import STREAM_PROTOCOLS, ImageSet, Stream, Task
from edgecl.streams._unpack import unpack

__all__ = [
    "STREAM_PROTOCOLS",
    "ArraySource",
    "BrokenImageError",
    "ImageSet",
    "ImageSource",
    "PathSource",
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
    "register_stream",
    "split_validation",
    "stream_names",
    "takes_option",
    "task_from_folder",
    "unpack",
]

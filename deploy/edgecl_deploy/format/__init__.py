"""Bundle, pack, release and channel: the one reader and the one writer (docs/format.md).

Rules without I/O: bytes in, bytes out. Every function raises a `DeployError` and nothing else,
whatever the bytes are, and takes no more memory than the limits allow.
"""

from edgecl_deploy.format._bundle import (
    BUNDLE_FORMAT,
    Backbone,
    Bundle,
    Preprocessing,
    parse_bundle,
)
from edgecl_deploy.format._channel import (
    CHANNEL_FORMAT,
    CHANNEL_NAME,
    Channel,
    Kind,
    Rollout,
    channel_target,
    object_target,
    parse_channel,
)
from edgecl_deploy.format._json import canonical, digest, verify
from edgecl_deploy.format._learned import check_release, class_rows, learned_from
from edgecl_deploy.format._program import (
    FROM_LEARNED,
    FROM_MATCH,
    INJECTED,
    PLAIN,
    FileRef,
    LearnedSpec,
    Program,
    SlotSpec,
    Staged,
)
from edgecl_deploy.format._release import (
    PACK_FORMAT,
    PACKS_FORMAT,
    RELEASE_FORMAT,
    Calibration,
    Canaries,
    Pack,
    PackIndex,
    PackTensor,
    Release,
    parse_index,
    parse_pack,
    parse_release,
)
from edgecl_deploy.format._tensors import DTYPES, read_tensors, write_tensors

__all__ = [
    "BUNDLE_FORMAT",
    "CHANNEL_FORMAT",
    "CHANNEL_NAME",
    "DTYPES",
    "FROM_LEARNED",
    "FROM_MATCH",
    "INJECTED",
    "PACKS_FORMAT",
    "PACK_FORMAT",
    "PLAIN",
    "RELEASE_FORMAT",
    "Backbone",
    "Bundle",
    "Calibration",
    "Canaries",
    "Channel",
    "FileRef",
    "Kind",
    "LearnedSpec",
    "Pack",
    "PackIndex",
    "PackTensor",
    "Preprocessing",
    "Program",
    "Release",
    "Rollout",
    "SlotSpec",
    "Staged",
    "canonical",
    "channel_target",
    "check_release",
    "class_rows",
    "digest",
    "learned_from",
    "object_target",
    "parse_bundle",
    "parse_channel",
    "parse_index",
    "parse_pack",
    "parse_release",
    "read_tensors",
    "verify",
    "write_tensors",
]

"""The manifest of a channel: the release that its devices run, and which devices may take it now.

The `releases` role of a repository signs this document and no other. It names a release by its
digest; everything else follows from there by digests (release -> packs -> blobs), and the role of
the publisher signs each of those objects too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.canonical import canonical, check_version, load_object
from edgecl_deploy.manifest.fields import Fields

CHANNEL_FORMAT = "edgecl-channel/1"
PURGING_FORMAT = "edgecl-channel/2"  # a device that does not know `purge` must not go on
CHANNEL_NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
Kind = Literal["json", "safetensors"]
_NAME = "lower-case words such as stable or line-7"
_PREFIX = 16  # digits of a digest in a target's name; the whole digest is compared


@dataclass(frozen=True)
class Rollout:
    """Which share of the devices may take the release, and when."""

    id: str  # another id draws another order of the devices
    start: int  # seconds since 1970
    duration: int  # seconds until `percent` is reached, 0 for at once
    percent: int  # of the devices at the end

    @classmethod
    def read(cls, fields: Fields) -> "Rollout":
        """Read it from the fields of a manifest."""
        return cls(
            fields.text("id"),
            fields.integer("start", 0, limits.MAX_INTEGER),
            fields.integer("duration", 0, limits.MAX_INTEGER),
            fields.integer("percent", 0, 100),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {
            "id": self.id,
            "start": self.start,
            "duration": self.duration,
            "percent": self.percent,
        }

    def share(self, now: float) -> float:
        """Return the share of the devices that may have the release, 0 to 1."""
        if now < self.start:
            return 0.0
        done = 1.0 if self.duration == 0 else min(1.0, (now - self.start) / self.duration)
        return done * self.percent / 100

    def admits(self, device: str, now: float) -> bool:
        """Return whether a device may have the release now; once true, it stays so."""
        drawn = sha256(f"{self.id}\n{device}".encode()).digest()
        return int.from_bytes(drawn, "big") / 2**256 < self.share(now)


@dataclass(frozen=True)
class SignedBundle:
    """The bundle that devices of a channel are set up with; it comes on another way."""

    name: str  # of its backbone, for people
    sha256: str  # of bundle.json, which holds the digests of all its files

    @classmethod
    def read(cls, fields: Fields) -> "SignedBundle":
        """Read it from the fields of a manifest."""
        return cls(fields.text("name"), fields.sha256("sha256"))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of the manifest."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Channel:
    """`channels/<name>.json`: the release of a channel."""

    name: str
    number: int  # of the release; it only grows
    release: str  # digest of release.json
    size: int  # bytes of release.json
    publisher: str  # the one whose role signed the release's objects
    backbone: str  # digest: a device with another one need not fetch anything
    created: int  # seconds since 1970
    min_release: int = 0  # older releases must not run any more
    rollout: Rollout | None = None  # None: all devices at once
    halted: bool = False
    notes: str = ""
    bundle: SignedBundle | None = None
    purge: bool = False  # releases below `min_release` are erased from the devices
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Write the manifest in canonical form."""
        return canonical({
            **self.extra,
            "format": PURGING_FORMAT if self.purge else CHANNEL_FORMAT,
            "name": self.name,
            "number": self.number,
            "release": self.release,
            "size": self.size,
            "publisher": self.publisher,
            "backbone": self.backbone,
            "created": self.created,
            "min_release": self.min_release,
            "rollout": None if self.rollout is None else self.rollout.to_json(),
            "halted": self.halted,
            "notes": self.notes or None,
            **({} if self.bundle is None else {"bundle": self.bundle.to_json()}),
            **({"purge": True} if self.purge else {}),
        })


def parse_channel(data: bytes) -> Channel:
    """Read the manifest of a channel."""
    where = "channel manifest"
    fields = Fields(load_object(data, where, limits.MAX_CHANNEL), where)
    written = fields.take("format")
    if written != PURGING_FORMAT:
        check_version(written, CHANNEL_FORMAT, where)
    return Channel(
        name=fields.matching("name", CHANNEL_NAME, _NAME),
        number=fields.integer("number", 1, limits.MAX_AXIS),
        release=fields.sha256("release"),
        size=fields.integer("size", 1, limits.MAX_MANIFEST),
        publisher=fields.matching("publisher", CHANNEL_NAME, _NAME),
        backbone=fields.sha256("backbone"),
        created=fields.integer("created", 0, limits.MAX_INTEGER),
        min_release=fields.integer("min_release", 0, limits.MAX_AXIS),
        rollout=fields.optional("rollout", lambda key: Rollout.read(fields.child(key))),
        halted=fields.flag("halted"),
        notes=fields.optional("notes", lambda key: fields.text(key, limits.MAX_NOTES)) or "",
        bundle=SignedBundle.read(fields.child("bundle")) if fields.has("bundle") else None,
        purge=written == PURGING_FORMAT and fields.flag("purge"),
        extra=fields.unknown(),
    )


def channel_target(name: str) -> str:
    """Return the name of the target of a channel's manifest."""
    return f"channels/{name}.json"


def object_target(publisher: str, sha256: str, kind: Kind) -> str:
    """Return the name of the target of a release, a pack manifest or a blob.

    Args:
        publisher: The publisher whose role signs it.
        sha256: The digest of its bytes.
        kind: `json` for manifests, `safetensors` for blobs.
    """
    return f"packs/{publisher}/{sha256[:_PREFIX]}.{kind}"

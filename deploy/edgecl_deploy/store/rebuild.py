"""Derives the manifest of a generation from the objects of its release.

Everything in it follows from release.json: the packs, their blobs, all sizes. Only which release a
generation is must be known; its digest is twice in the manifest, so rot of one bit leaves it there.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import blob_sizes, read_file
from edgecl_deploy.format import Pack, parse_pack, parse_release, verify
from edgecl_deploy.manifest import limits
from edgecl_deploy.store.records import Generation

_CREATED = re.compile(rb'"created":(\d{1,15})[,}]')


def derive(
    objects: Path, number: int, name: str, created: int, held: Collection[str] | None = None
) -> Generation:
    """Return the manifest of a generation.

    Args:
        objects: The folder of objects.
        number: That of the generation.
        name: The digest of its release.json.
        created: Seconds since 1970.
        held: What the manifest names; None if that is not known. It decides whether the generation
            has the factor of its release, which a device may have or not.
    """
    sizes: dict[str, int] = {}

    def manifest(name: str, largest: int) -> bytes:
        data = read_file(objects / name, largest)
        verify(data, name, None, f"{objects.name}/{name}")
        sizes[name] = len(data)
        return data

    release = parse_release(manifest(name, limits.MAX_MANIFEST))
    packs: list[Pack] = []
    for each in release.packs:
        packs.append(parse_pack(manifest(each, limits.MAX_PACK_MANIFEST)))
    sizes |= blob_sizes(release, packs)
    factor = release.enrolment
    if factor is not None and (
        (objects / factor.blob).is_file() if held is None else factor.blob in held
    ):
        sizes[factor.blob] = factor.bytes
    return Generation(number, release.number, name, sizes, created)


def rebuild(objects: Path, number: int, damaged: bytes, known: str | None) -> Generation | None:
    """Return the manifest of a generation that cannot be read, if its release is known.

    Args:
        objects: The folder of objects.
        number: That of the generation.
        damaged: What is left of its manifest.
        known: The digest of its release.json, if state.json has it.

    Returns:
        The manifest, or None if it cannot be said which release it was.
    """
    match = _CREATED.search(damaged)
    created = 0 if match is None else int(match[1])
    named = [name for name in _names(objects) if name.encode() in damaged]
    for name in [*named, *([] if known is None else [known])]:
        with suppress(DeployError):
            return derive(objects, number, name, created)
    return None


def _names(objects: Path) -> list[str]:
    """Return the objects that may be a release.json."""
    largest = limits.MAX_MANIFEST
    with suppress(OSError):
        return sorted(each.name for each in objects.iterdir() if each.stat().st_size <= largest)
    return []

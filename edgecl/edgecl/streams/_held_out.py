"""Which files are held out: a function of their content, the key and the fraction alone.

An image is held out where the hash of its content and the key is in the upper fraction. So it does
not matter how many others there are, what they are called or where they are: an image that was
trained on is not tested later, and copies of one image are always on one side.

A class whose images are all in that fraction trains on the one with the smallest hash. Were that
forgotten, more images of the class would make it a test image; so the digests of such images are
stored (`Index.trained`), and no image of them is ever held out.
"""

import hashlib
from collections.abc import Hashable, Sequence, Set


def chance(digest: bytes, *key: object) -> float:
    """Return a number in [0, 1) that depends on an image's content and the key only."""
    words = "/".join(map(str, key)).encode()
    number = hashlib.blake2b(digest + words, digest_size=8).digest()
    return (int.from_bytes(number, "big") >> 11) / 2**53


def held_out(
    cells: Sequence[Hashable],
    digests: Sequence[bytes],
    fraction: float,
    *key: object,
    trained: Set[bytes] = frozenset(),
) -> tuple[list[bool], set[bytes]]:
    """Return of each image whether it is held out, and which are not for the sake of their class.

    Args:
        cells: the class and task of each image.
        digests: the digest of each image's content.
        fraction: in [0, 1).
        key: the seed, and what else tells choices apart.
        trained: digests that may not be held out.
    """
    chances = [chance(digest, "hold-out", *key) for digest in digests]
    held = [
        at >= 1 - fraction and digest not in trained
        for at, digest in zip(chances, digests, strict=True)
    ]
    stays = {cell for cell, out in zip(cells, held, strict=True) if not out}
    least: dict[Hashable, tuple[float, bytes]] = {}
    for cell, at, digest in zip(cells, chances, digests, strict=True):
        if cell not in stays:
            least[cell] = min(least.get(cell, (at, digest)), (at, digest))
    spared = {digest for _, digest in least.values()}
    out = [o and digest not in spared for o, digest in zip(held, digests, strict=True)]
    return out, spared

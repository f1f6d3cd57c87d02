"""The identity of a backbone: one sha256 over its weights, its sizes and its preprocessing.

The weights are those of the file under our names. A position embedding is resampled after its
digest is taken, so that the digest does not depend on how a processor rounds; the image size is one
of the sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgecl.backbones.preprocess import Preprocess
from edgecl_deploy.manifest.canonical import canonical, digest

Fingerprints = dict[str, list[Any]]  # tensor name -> [dtype, shape, sha256 of its bytes]


def fingerprints(weights: Mapping[str, Tensor]) -> Fingerprints:
    """Return dtype, shape and sha256 of every tensor, in about 0.1 s per 100 MB."""
    found: Fingerprints = {}
    for name, tensor in weights.items():
        array = tensor.detach().cpu().numpy()
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        found[name] = [array.dtype.name, list(array.shape), digest(little.tobytes())]
    return found


def weights_digest(prints: Fingerprints) -> str:
    """Return the sha256 of names, dtypes, shapes and bytes, whatever the file format."""
    return digest(canonical(prints))


@dataclass(frozen=True)
class Identity:
    """What a backbone is without its preprocessing.

    Attributes:
        weights: of every tensor in use.
        config: the sizes.
    """

    weights: Fingerprints
    config: dict[str, Any]

    def digest(self, preprocess: Preprocess) -> str:
        """Return the sha256 by which packs and bundles name the backbone."""
        identity = {
            "weights": self.weights,
            "config": self.config,
            "preprocessing": preprocess.identity(),
        }
        return digest(canonical(identity))

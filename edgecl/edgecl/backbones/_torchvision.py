"""Make torchvision importable with a CPU-only torch.

torchvision's Linux wheel is built for CUDA. With a CPU-only torch its C++ library does not load, so
the operators that its Python code registers fake kernels for do not exist, and the import stops
with `operator torchvision::nms does not exist`. Once the two schemas are defined, torchvision, timm
and open_clip import and work; only a call of these operators fails.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_libraries: list[torch.library.Library] = []  # a schema lives as long as its Library object


def prepare_torchvision() -> None:
    """Define the operators that `import torchvision` needs; call it before that import.

    It does nothing where torchvision is not installed or its own C++ library loads, and when it is
    called again.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    if not _exists("nms"):
        _load_extension(Path(spec.origin).parent)
    missing = [name for name in SCHEMAS if not _exists(name)]
    if not missing:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(SCHEMAS[name])
    _libraries.append(library)


def _exists(name: str) -> bool:
    return hasattr(torch.ops.torchvision, name)


def _load_extension(folder: Path) -> None:
    """Load torchvision's C++ library as its import does; it defines the operators if it fits."""
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_C{suffix}"
        if path.exists():
            try:
                torch.ops.load_library(str(path))
            except OSError:  # built for another torch: the schemas are defined by hand
                return

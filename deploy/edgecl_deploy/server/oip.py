"""The models of the server, described as Open Inference Protocol v2 has them.

Sources: the protocol's inference_rest.md (kserve/open-inference-protocol), and Triton's extensions
binary_tensor_data, classification, model_repository, model_configuration and statistics
(docs/protocol of triton-inference-server/server).
"""

import json
from dataclasses import dataclass
from typing import Any

from edgecl_deploy.loaded import LoadedRelease

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_repository",
    "model_configuration",
    "statistics",
)
PLATFORM = "edgecl"
OUTPUTS = {  # datatype, and how many axes after that of the images
    "label": ("BYTES", 1),
    "score": ("FP32", 1),
    "known": ("BOOL", 0),
    "p": ("FP32", 0),
    "set": ("BYTES", 1),
    "set_size": ("INT64", 0),
    "basis": ("BYTES", 0),
    "error": ("BYTES", 0),
    "source": ("BYTES", 0),
    "scores": ("FP32", 1),
    "match": ("INT64", 1),
    "match_score": ("FP32", 1),
    "feature": ("FP32", 1),
}
ALWAYS = ("label", "score", "known", "p", "set", "error")  # if nothing else is asked for
JUDGED = ("p", "set", "set_size", "basis")  # of a release with the scores of its images
PRIVATE = "feature"  # an image can be made from it again: for the token `admin`


@dataclass(frozen=True)
class Model:
    """What a request can name."""

    name: str
    datatype: str  # of its one input, `image`
    shape: tuple[int, ...]  # -1: any number of images


FILES = Model("edgecl", "BYTES", (-1,))
INPUT = "image"


def models(side: int) -> dict[str, Model]:
    """Return the models of a server by name: one takes image files, one takes prepared images.

    Args:
        side: Pixels of a prepared image.
    """
    pixels = Model("edgecl.pixels", "UINT8", (-1, side, side, 3))
    return {each.name: each for each in (FILES, pixels)}


def metadata(model: Model, loaded: LoadedRelease) -> dict[str, Any]:
    """Describe a model, as the release that answers now has it."""
    classes = {"scores": len(loaded.classes)}
    absent = lacking(loaded)
    return {
        "name": model.name,
        "versions": [version(loaded)],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": model.datatype, "shape": list(model.shape)}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *[classes.get(name, -1)] * axes]}
            for name, (datatype, axes) in OUTPUTS.items()
            if name not in absent
        ],
    }


def lacking(loaded: LoadedRelease) -> frozenset[str]:
    """Return the outputs that a release does not give."""
    if loaded.reference is not None:
        return frozenset()
    plain = loaded.files.release.calibration is None
    return frozenset((*JUDGED, "known") if plain else JUDGED)


def configuration(model: Model, loaded: LoadedRelease) -> dict[str, Any]:
    """Describe a model as Triton's configuration does; every shape has the axis of the images."""
    found = metadata(model, loaded)

    def parts(key: str) -> list[dict[str, Any]]:
        return [
            {
                "name": each["name"],
                "data_type": f"TYPE_{each['datatype'].replace('BYTES', 'STRING')}",
                "dims": each["shape"],
            }
            for each in found[key]
        ]

    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": parts("inputs"),
        "output": parts("outputs"),
    }


def version(loaded: LoadedRelease) -> str:
    """Return the version of a model: `7`, or `7.3` with the third state of this device's classes.

    Args:
        loaded: What answers.
    """
    local = local_of(loaded)
    return f"{loaded.number}.{local}" if local else str(loaded.number)


def local_of(loaded: LoadedRelease) -> int:
    """Return the generation of this device's own classes that answers; 0 if none does."""
    return loaded.local


def to_json(value: object) -> bytes:
    """Write a JSON value; ValueError if a number is not finite."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")

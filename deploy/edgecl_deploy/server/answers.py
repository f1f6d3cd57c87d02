"""Writes an answer of Open Inference Protocol v2 (inference_rest.md, "Inference Response")."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecl_deploy.errors import RequestError
from edgecl_deploy.loaded import LoadedRelease, Prediction
from edgecl_deploy.programs import Scores
from edgecl_deploy.server.binary import pack_numbers, pack_texts
from edgecl_deploy.server.oip import ALWAYS, OUTPUTS, lacking, to_json
from edgecl_deploy.server.requests import Request, Wanted


@dataclass(frozen=True, eq=False)
class Tensor:
    """An output: texts, or numbers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[str] | np.ndarray


def predictions(
    loaded: LoadedRelease, out: Scores, errors: Sequence[str | None], top: int
) -> list[Prediction]:
    """Return the answer for every image.

    Args:
        loaded: The release that answers.
        out: What it computed, of the images without an error.
        errors: Of every image: what was wrong with it, or None.
        top: Classes per image.
    """
    ran = loaded.predictions(out, top)
    return [next(ran) if each is None else loaded.failed(each) for each in errors]


def tensors(
    request: Request,
    loaded: LoadedRelease,
    out: Scores,
    found: list[Prediction],
    errors: Sequence[str | None],
) -> list[tuple[Tensor, bool]]:
    """Return the outputs of an answer, and which are binary.

    Args:
        request: What was asked.
        loaded: The release that answers.
        out: What it computed, of the images without an error.
        found: The answer for every image.
        errors: Of every image: what was wrong with it, or None.

    Raises:
        RequestError: An output is asked for that this release does not give.
    """
    absent, wanted = lacking(loaded), request.wanted
    if wanted is None:
        wanted = tuple(Wanted(name, request.binary) for name in ALWAYS if name not in absent)
    for name in (each.name for each in wanted if each.name in absent):
        raise RequestError(
            400,
            f"the output {name} must be asked of a release with "
            + ("a threshold, or with " if name == "known" else "")
            + "the scores of its images",
            f"release {loaded.number}, which has none",
            "Leave it out, or release the packs of a run that was made by this version.",
        )
    rows = np.array([i for i, each in enumerate(errors) if each is None], np.intp)
    return [(_tensor(each, found, loaded, out, rows), each.binary) for each in wanted]


def _tensor(
    wanted: Wanted,
    answers: list[Prediction],
    loaded: LoadedRelease,
    out: Scores,
    rows: np.ndarray,
) -> Tensor:
    """Return one output; a row whose image has an error is empty, or 0."""
    name, datatype, count = wanted.name, OUTPUTS[wanted.name][0], len(answers)
    if name in {"label", "score"}:
        width = max((len(each.top) for each in answers), default=0)
        width = width or 1
        pairs = [pair for each in answers for pair in (each.top or (("", 0.0),) * width)]
        shape = (count, width)
        if name == "label":
            return Tensor(name, datatype, shape, [label for label, _ in pairs])
        numbers = np.array([score for _, score in pairs], np.float32)
        return Tensor(name, datatype, shape, numbers.reshape(shape))
    if name == "set":
        longest = max((len(each.set) for each in answers), default=0) or 1
        texts = [
            each.set[i] if i < len(each.set) else "" for each in answers for i in range(longest)
        ]
        return Tensor(name, datatype, (count, longest), texts)
    if name in {"p", "set_size"}:
        kind = np.float32 if name == "p" else np.int64
        return Tensor(name, datatype, (count,), _numbers(answers, name, kind))
    if name in {"error", "source", "basis"}:
        return Tensor(name, datatype, (count,), [getattr(each, name) or "" for each in answers])
    if name == "known":
        known = np.array([each.known is True for each in answers], np.bool_)
        return Tensor(name, datatype, (count,), known)
    ran = _of_classes(loaded, out.scores) if name == "scores" else getattr(out, name)
    values = np.zeros((count, *ran.shape[1:]), ran.dtype)
    values[rows] = np.nan_to_num(ran)
    if wanted.classes:
        return _classified(values, loaded.classes, wanted.classes)
    return Tensor(name, datatype, values.shape, values)


def _numbers(answers: list[Prediction], name: str, kind: type) -> np.ndarray:
    """Return a field of every answer, 0 where there is none."""
    return np.array([getattr(each, name) or 0 for each in answers], kind)


def _of_classes(loaded: LoadedRelease, scores: np.ndarray) -> np.ndarray:
    """Return the score of each class that may be answered: float32 [b, classes] of [b, c]."""
    shown = set(loaded.classes)
    merged = loaded.labels.merge(scores)
    return merged[:, [name in shown for name in loaded.labels.names]]


def _classified(scores: np.ndarray, names: tuple[str, ...], most: int) -> Tensor:
    """Return `value:index:label` of the best classes (Triton's classification extension)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :most]  # [b, k]
    texts = [
        f"{float(str(row[i]))}:{i}:{names[i]}"
        for row, columns in zip(scores, best, strict=True)
        for i in columns
    ]
    return Tensor("scores", "BYTES", best.shape, texts)


def write_answer(head: dict[str, Any], found: list[tuple[Tensor, bool]]) -> tuple[bytes, int]:
    """Return the body of an answer, and the length of its JSON.

    Args:
        head: The fields beside `outputs`.
        found: The outputs, and which are binary.
    """
    outputs, parts = [], []
    for tensor, binary in found:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if binary:
            values = tensor.values
            data = (
                pack_texts(values)
                if isinstance(values, list)
                else pack_numbers(values, tensor.datatype)
            )
            entry["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        else:
            entry["data"] = _plain(tensor.values)
        outputs.append(entry)
    text = to_json({**head, "outputs": outputs})
    return b"".join([text, *parts]), len(text)


def _plain(values: list[str] | np.ndarray) -> list[Any]:
    """Return the elements for JSON; a float32 has the fewest digits that give it back."""
    if isinstance(values, list):
        return values
    flat = values.reshape(-1)
    if flat.dtype == np.float32:
        return [float(each) for each in np.nan_to_num(flat).astype(str)]
    return list(flat.tolist())

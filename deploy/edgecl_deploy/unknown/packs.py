"""Reads what packs hold of the scores of their images, and adds classes of a device."""

from collections.abc import Mapping, Sequence

import numpy as np

from edgecl_deploy.errors import MissingFileError, MissingTensorError, TensorShapeError
from edgecl_deploy.format import RIDGE, TEXT, OwnScores, Pack, live_rows, read_tensors
from edgecl_deploy.unknown.own import left_out, unit
from edgecl_deploy.unknown.rule import Part
from edgecl_deploy.unknown.table import Table


def parts_of(
    packs: Sequence[Pack], blobs: Mapping[str, bytes], learned: Mapping[str, np.ndarray]
) -> tuple[Part, ...]:
    """Return the parts of a release; none where a pack with classes has no scores.

    Nor where packs compare other columns of a feature than the first: they were made by programs
    of their own, and nothing can be said about them together.

    Args:
        packs: Of the release, in order.
        blobs: Verified bytes by digest.
        learned: The learned tensors of the release.
    """
    classed = [pack for pack in packs if pack.classes]
    held = {pack.unknown.columns for pack in classed if pack.unknown is not None}
    if len(held) != 1 or any(pack.unknown is None for pack in classed):
        return ()
    live, parts, begin = live_rows(packs), [], 0
    for pack in classed:
        assert pack.unknown is not None  # noqa: S101  looked at above
        end = begin + len(pack.classes)
        parts.append(_part(pack, pack.unknown, blobs, learned, live[begin:end], begin))
        begin = end
    return tuple(parts)


def _part(
    pack: Pack,
    own: OwnScores,
    blobs: Mapping[str, bytes],
    learned: Mapping[str, np.ndarray],
    live: Sequence[bool],
    begin: int,
) -> Part:
    """Read the part of one pack.

    Raises:
        MissingFileError: Its blob is not there.
        MissingTensorError: There is no such learned tensor.
        TensorShapeError: The rows are not as long as the columns of a feature.
    """
    if own.blob not in blobs:
        raise MissingFileError(
            f"pack {pack.task} needs the blob {own.blob}",
            "none",
            "Copy the whole release directory again.",
        )
    count = len(pack.classes)
    table = Table.from_tensors(read_tensors(blobs[own.blob]), count, spaces=own.also is not None)
    found = table.mean if own.tensor is None else learned.get(own.tensor)
    again = "Export the task again with `edgecl export pack`."
    if found is None:
        raise MissingTensorError(
            f"the scores of pack {pack.task} must be of a learned tensor, or hold `mean`",
            str(own.tensor),
            again,
        )
    rows = found if own.tensor is None else found[begin : begin + count]
    width = own.columns[1] - own.columns[0]
    if rows.shape[0] != count or rows.size != count * width:
        raise TensorShapeError(
            f"pack {pack.task} must compare {count} rows of {width} numbers",
            str(list(rows.shape)),
            again,
        )
    if table.directions is not None and table.directions.shape[2] != width:
        raise TensorShapeError(
            f"the directions of pack {pack.task} must be of {width} numbers",
            str(list(table.directions.shape)),
            again,
        )
    return Part(table, pack.classes, live, rows.reshape(count, width), own.columns)


def with_classes(
    parts: Sequence[Part], features: Mapping[str, np.ndarray], kind: str
) -> tuple[Part, ...]:
    """Add the classes of a device, with the scores of the images that were shown.

    Args:
        parts: Of the release, at least one.
        features: Of the images of each class, float32 [n, f].
        kind: How the program takes a class: of `ridge` a row is the mean of features of length 1,
            of `text` it is the embedding of a name, else the mean of features as they are.
    """
    begin, end = parts[0].columns
    rows, scores = [], []
    cut = [each[:, begin:end].astype(np.float64) for each in features.values()]
    for each in cut:
        own = unit(each) if kind == RIDGE else each
        total = own.sum(axis=0)
        rows.append(total / len(own))
        scores.append(own_scores(own, total, 1 if kind == TEXT else len(own)))
    former = [part.table for part in parts]
    table = Table.of(scores, former)
    table = table if kind == TEXT else table.with_subspaces(cut, former)
    names = tuple(features)
    live = (True,) * len(names)
    own_part = Part(table, names, live, np.stack(rows), parts[0].columns, named=kind == TEXT)
    return (*parts, own_part)


def own_scores(features: np.ndarray, total: np.ndarray, images: int) -> np.ndarray:
    """Return the scores that images of a class have with the row of all others; none of one image.

    Args:
        features: [n, w].
        total: [w], the sum of all images that the row is of.
        images: How many these are.
    """
    return left_out(features, total) if images > 1 else np.empty(0)

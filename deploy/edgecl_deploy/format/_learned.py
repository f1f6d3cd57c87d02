"""Joins the packs of a release into the learned tensors of a program.

Laws: every pack was made for this backbone and this interface; a class enters once; every tensor
is what the program declares (axes, fixed sizes, dtype, finite); an axis has one size throughout;
nothing that the program declares is missing, nothing else is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from edgecl_deploy.errors import (
    DuplicateClassError,
    ExtraTensorError,
    ManifestError,
    MissingFileError,
    MissingTensorError,
    NonFiniteError,
    TensorAxesError,
    TensorDtypeError,
    TensorShapeError,
    WrongBackboneError,
    WrongInterfaceError,
    WrongProgramError,
    shown,
)
from edgecl_deploy.format._bundle import Bundle
from edgecl_deploy.format._program import LearnedSpec, Program
from edgecl_deploy.format._release import ROWS, Pack, PackTensor, Release, check_total
from edgecl_deploy.format._tensors import DTYPES, read_tensors

_WIDENS = {("float16", "float32")}  # stored dtype, dtype of the graph
_REEXPORT = "Export the task again with `edgecl export pack`."


def check_release(bundle: Bundle, release: Release, packs: Sequence[Pack]) -> Program:
    """Check that bundle, release and packs belong together.

    The release's `bundle` digest names the bundle that it was made with. It is not compared:
    adding a program to a bundle changes that digest and nothing that a release depends on. The
    backbone's digest and the interface of the program must be the same; the canaries decide.

    Args:
        bundle: The bundle of the device.
        release: The release that it is to run.
        packs: The packs of the release, in order.

    Returns:
        The program of the release.

    Raises:
        WrongBackboneError: A digest of the backbone differs.
        WrongProgramError: The packs are for different programs.
        WrongInterfaceError: The learned inputs of the program have changed.
        ManifestError: There is no class at all.
    """
    program = bundle.program(release.program)
    if not any(pack.classes for pack in packs):
        raise ManifestError("the packs of a release must hold a class", "none", _REEXPORT)
    named: list[tuple[str, Release | Pack]] = [("the release", release)]
    named += [(f"pack {pack.task} ({shown(pack.name)})", pack) for pack in packs]
    for what, each in named:
        if each.backbone != bundle.backbone.digest:
            raise WrongBackboneError(
                f"{what} must be for the backbone {bundle.backbone.digest[:12]} "
                f"({bundle.backbone.name}) of this bundle",
                each.backbone[:12],
                "Install the bundle of that backbone, or learn the task again on this one.",
            )
        if each.program != release.program:
            raise WrongProgramError(
                f"{what} must be for the program {release.program} of its release",
                shown(each.program),
                "Make one release per program: `edgecl export release`.",
            )
        if each.interface != program.interface:
            raise WrongInterfaceError(
                f"{what} must have the interface {program.interface[:12]} of {release.program}",
                each.interface[:12],
                "Export the packs and the bundle from the same run, with the same method config.",
            )
    return program


def class_rows(packs: Sequence[Pack]) -> tuple[str, ...]:
    """Return the class of every row of the classifier; a domain stream repeats names.

    Args:
        packs: The packs of a release, in order.

    Raises:
        DuplicateClassError: A class comes again without being marked as known, or is marked
            as known but new.
    """
    rows: list[str] = []
    seen: set[str] = set()
    for pack in packs:
        known = set(pack.known)
        for name in pack.classes:
            if (name in seen) != (name in known):
                raise DuplicateClassError(
                    "a class must be new, or listed under known and in an older pack",
                    f"{shown(name)} of pack {pack.task} "
                    + ("again, not as known" if name in seen else "as known, in no older pack"),
                    "Rename the class, or release the packs in the order of their tasks.",
                )
        seen.update(pack.classes)
        rows.extend(pack.classes)
    return tuple(rows)


class Moving(Protocol):
    """A pack, or what the workstation stores of its task."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class of each row that it adds."""

    @property
    def moved(self) -> tuple[str, ...]:
        """Classes whose rows in older packs no longer count."""


def live_rows(packs: Sequence[Moving]) -> tuple[bool, ...]:
    """Return whether each row of the classifier counts: a later pack may move a class's rows.

    Args:
        packs: The packs of a release, or the tasks of a run, in order.
    """
    last = {name: index for index, pack in enumerate(packs) for name in pack.moved}
    return tuple(
        index >= last.get(name, 0) for index, pack in enumerate(packs) for name in pack.classes
    )


def learned_from(
    program: Program, packs: Sequence[Pack], blobs: Mapping[str, bytes]
) -> dict[str, np.ndarray]:
    """Join the packs of a release into the learned inputs of a program.

    Args:
        program: The program that declares them.
        packs: The packs in order; a tensor with a `concat_axis` is appended, any other replaced.
        blobs: The verified bytes of every blob by digest.

    Returns:
        One array per declared tensor: C-contiguous, aligned, read-only, in the graph's dtype.

    Raises:
        MissingTensorError: A declared tensor is in no pack, or an appended one not in each.
        TensorShapeError: An axis has two sizes.
    """
    rows = class_rows(packs)
    parts = _collect(program, packs, blobs)
    for name in program.learned:
        if not parts[name]:
            raise MissingTensorError(
                f"the packs must hold every learned tensor ({', '.join(program.learned)})",
                f"no {name}",
                "Release the packs from task 0 on; the first ones hold what is learned once.",
            )
    check_total(
        sum(
            prod(part.tensor.shape) * DTYPES[spec.dtype].itemsize
            for name, spec in program.learned.items()
            for part in parts[name]
        )
    )
    learned = {name: _join(name, spec, parts[name]) for name, spec in program.learned.items()}
    sizes = {ROWS: (len(rows), "the class names")}
    for name, spec in program.learned.items():
        for axis, size in zip(spec.axes, learned[name].shape, strict=True):
            known, owner = sizes.setdefault(axis, (size, name))
            if size != known and axis not in spec.sizes:
                raise TensorShapeError(
                    f"the axis {axis} of {name} must have the size {known} that {owner} gives it",
                    str(size),
                    _REEXPORT,
                )
        _check_finite(name, learned[name])
    return learned


@dataclass(frozen=True)
class _Part:
    """The part of one pack in one tensor."""

    pack: Pack
    tensor: PackTensor
    stored: "_Stored | None"  # None: it is generated, once the sizes of all are known


@dataclass(frozen=True)
class _Stored:
    """What the blobs of a pack hold of one tensor.

    Attributes:
        array: The tensor, or its bits.
        starts: Of a tensor in bits, where it started.
    """

    array: np.ndarray
    starts: tuple[np.ndarray, ...]

    def made(self, tensor: PackTensor) -> np.ndarray:
        """Return the tensor, as it is stored or from its bits."""
        if tensor.bits is None:
            return self.array
        axis = tensor.axes.index(ROWS) if ROWS in tensor.axes else 0
        return tensor.bits.make(self.array, self.starts, tensor.shape, axis)


def _collect(
    program: Program, packs: Sequence[Pack], blobs: Mapping[str, bytes]
) -> dict[str, list[_Part]]:
    parts: dict[str, list[_Part]] = {name: [] for name in program.learned}
    rows = 0
    for pack in packs:
        stored = _stored(pack, blobs)
        rows += len(pack.classes)
        for name, tensor in pack.tensors.items():
            spec = _declared(program, name, tensor, pack, rows)
            if spec.concat_axis is None:
                parts[name].clear()
            parts[name].append(_Part(pack, tensor, stored.get(name)))
        for name, spec in program.learned.items():
            if spec.concat_axis is not None and pack.classes and name not in pack.tensors:
                raise MissingTensorError(
                    f"every pack with classes must hold {name}, which is appended per task",
                    f"none in pack {pack.task}",
                    _REEXPORT,
                )
    return parts


def stored_tensors(pack: Pack, blobs: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Return the tensors that a pack holds, in the dtypes of its manifest.

    Args:
        pack: The pack.
        blobs: The verified bytes of its blobs by digest.
    """
    found = _stored(pack, blobs)
    return {name: each.made(pack.tensors[name]) for name, each in found.items()}


def _stored(pack: Pack, blobs: Mapping[str, bytes]) -> dict[str, _Stored]:
    owners: dict[str, set[str]] = {}  # of each blob, the tensors that it may hold something of
    for name, tensor in pack.tensors.items():
        for blob in tensor.blobs:
            owners.setdefault(blob, set()).add(name)
    found: dict[tuple[str, str], np.ndarray] = {}
    for blob, own in owners.items():
        if blob not in blobs:
            raise MissingFileError(
                f"pack {pack.task} needs the blob {blob}",
                "none",
                "Copy the whole release directory again.",
            )
        for name, array in read_tensors(blobs[blob]).items():
            if name not in own:
                raise ExtraTensorError(
                    f"the blob {blob[:12]} must hold only tensors of its pack's manifest",
                    shown(name),
                    _REEXPORT,
                )
            found[blob, name] = array
    return {
        name: _checked(name, tensor, [found.get((blob, name)) for blob in tensor.blobs])
        for name, tensor in pack.tensors.items()
        if tensor.blob is not None
    }


def _checked(name: str, tensor: PackTensor, held: Sequence[np.ndarray | None]) -> _Stored:
    """Check what each of the blobs of a tensor holds of it.

    Raises:
        MissingTensorError: One holds nothing.
        TensorShapeError: The tensor, or its bits, has another shape.
        TensorDtypeError: One has another dtype.
    """
    arrays = []
    for blob, array in zip(tensor.blobs, held, strict=True):
        if array is None:
            raise MissingTensorError(
                f"the blob {blob[:12]} must hold {name}, which its manifest lists",
                "none",
                _REEXPORT,
            )
        arrays.append(array)
    array, starts = arrays[0], tuple(arrays[1:])
    shape = tensor.shape if tensor.bits is None else (tensor.bits.nbytes,)
    if array.shape != shape:
        raise TensorShapeError(
            f"{name} must have the shape {list(shape)} of its manifest",
            str(list(array.shape)),
            _REEXPORT,
        )
    own = (tensor.dtype,) if tensor.bits is None else ("uint8",)
    for each, dtypes in ((array, own), *((start, ("float16", "float32")) for start in starts)):
        if each.dtype not in [DTYPES[dtype] for dtype in dtypes]:
            raise TensorDtypeError(
                f"{name} must have the dtype {' or '.join(dtypes)} of its manifest",
                each.dtype.name,
                _REEXPORT,
            )
    return _Stored(array, starts)


def _declared(
    program: Program, name: str, tensor: PackTensor, pack: Pack, rows: int
) -> LearnedSpec:
    where = f"{name} of pack {pack.task}"
    if name not in program.learned:
        raise ExtraTensorError(
            f"a pack must hold only tensors that its program declares "
            f"({', '.join(program.learned)})",
            name,
            _REEXPORT,
        )
    spec = program.learned[name]
    if (tensor.axes, tensor.concat_axis) != (spec.axes, spec.concat_axis):
        raise TensorAxesError(
            f"{where} must have the axes {' '.join(spec.axes)}, appended on {spec.concat_axis}",
            f"{' '.join(tensor.axes)}, appended on {tensor.concat_axis}",
            _REEXPORT,
        )
    if tensor.dtype != spec.dtype and (tensor.dtype, spec.dtype) not in _WIDENS:
        raise TensorDtypeError(
            f"{where} must be {spec.dtype}, or float16 where that is float32",
            tensor.dtype,
            "Export the task again with --dtype float16 or float32.",
        )
    fixed = dict(spec.sizes)
    if spec.concat_axis == ROWS:
        fixed[ROWS] = len(pack.classes)
    elif spec.concat_axis is None and ROWS in spec.axes:
        fixed[ROWS] = rows  # replaced as a whole: one row for every class so far
    for axis, size in zip(tensor.axes, tensor.shape, strict=True):
        if size != fixed.get(axis, size):
            raise TensorShapeError(
                f"{where} must have {fixed[axis]} on the axis {axis}", str(size), _REEXPORT
            )
    return spec


def _made(name: str, part: _Part) -> np.ndarray:
    if part.stored is not None:
        return part.stored.made(part.tensor)
    if part.tensor.generator is None:
        raise MissingTensorError(f"{name} must be in a blob or generated", "neither", _REEXPORT)
    return part.tensor.generator.make(part.tensor.shape)


def _join(name: str, spec: LearnedSpec, parts: Sequence[_Part]) -> np.ndarray:
    arrays = [_made(name, part) for part in parts]
    joined = arrays[-1]
    if spec.concat_axis is not None and len(parts) > 1:
        axis = spec.axes.index(spec.concat_axis)
        for part, array in zip(parts, arrays, strict=True):
            for i, size in enumerate(array.shape):
                if i != axis and size != arrays[0].shape[i]:
                    raise TensorShapeError(
                        f"every pack must have {arrays[0].shape[i]} on the axis {spec.axes[i]}",
                        f"{size} in pack {part.pack.task}",
                        _REEXPORT,
                    )
        joined = np.concatenate(arrays, axis)
    # The engine takes a C-contiguous array without a copy; every run would copy another one.
    array = np.require(joined, DTYPES[spec.dtype], ["C", "A"])
    array.flags.writeable = False  # shared by all threads
    return array


def _check_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NonFiniteError(
            f"every value of {name} must be finite",
            f"{int(np.count_nonzero(~np.isfinite(array)))} that are NaN or infinite",
            "Do not use this pack; learn the task again, and export with --dtype float32 if "
            "values overflow float16.",
        )

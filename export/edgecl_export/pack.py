"""Packs: what the tasks of a run learned, as content-addressed files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.program import Program
from edgecl.program.learned import TensorSpec
from edgecl.session import program_of
from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import BLOBS, INDEX_FILE, PACKS
from edgecl_deploy.format import (
    Generator,
    Pack,
    PackIndex,
    PackTensor,
    digest,
    parse_index,
    parse_pack,
    probe,
    write_tensors,
)
from edgecl_deploy.manifest.whole import write_whole
from edgecl_export.canaries import CANARIES, shrink
from edgecl_export.errors import PackError
from edgecl_export.sources import run_of

Dtype = Literal["float16", "float32"]


def export_packs(
    source: Learner | Run | str | Path,
    out: str | Path,
    tasks: Sequence[int] | None = None,
    dtype: Dtype = "float16",
) -> list[str]:
    """Write the packs of a run's tasks into a folder; packs that are there stay.

    Args:
        source: a learner, its run, or the run's folder.
        out: a new folder, or one that holds the packs of the earlier tasks.
        tasks: 0-based; None takes all that `out` does not hold.

    Returns:
        The ids of all packs that the folder now holds, in the order of the tasks.

    Raises:
        PackError: if the run is empty, `out` holds packs of another run, or a task is not in the
            run or comes before the packs of earlier tasks are there.
    """
    run, out = run_of(source), Path(out)
    program = program_of(run)
    if not len(run):
        raise PackError(
            f"A pack holds what a task learned, got {run.path} without a finished task. "
            f"Go on with `edgecl train --resume {run.path}`."
        )
    index = parse_index((out / INDEX_FILE).read_bytes()) if (out / INDEX_FILE).exists() else None
    ids = list(index.packs) if index else []
    canaries = dict(index.extra.get(CANARIES, {})) if index else {}
    for task, name in enumerate(ids):
        check_own(run, program, task, parse_pack((out / PACKS / f"{name}.json").read_bytes()), out)
    for folder in (PACKS, BLOBS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for task in range(len(ids), len(run)) if tasks is None else tasks:
        if not 0 <= task < len(run):
            raise PackError(
                f"--task must be in [0, {len(run)}) for {run.path}, got {task}. "
                "Learn the task first."
            )
        if task > len(ids):
            raise PackError(
                f"Packs are written in the order of their tasks: {out} holds {len(ids)}, "
                f"got --task {task}. "
                f"Export task {len(ids)} first, or all of them without --task."
            )
        name, canary = write_pack(run, program, task, out, dtype)
        ids[task : task + 1] = [name]
        canaries[name] = canary
    listed = {name: canaries[name] for name in ids}
    write_whole(out / INDEX_FILE, PackIndex(tuple(ids), {CANARIES: listed}).to_bytes())
    return ids


def check_own(run: Run, program: Program, task: int, pack: Pack, out: Path) -> None:
    """Check that a pack in the folder is of this run.

    Raises:
        PackError: if it is not.
    """
    own = task < len(run) and pack.interface == program.interface
    if not own or pack.classes != run.record(task).classes:
        raise PackError(
            f"{out} must be new or hold packs of {run.path}, got one of {pack.program} with "
            f"{', '.join(pack.classes[:3])} as task {task}. Write to a new folder."
        )


def write_pack(run: Run, program: Program, task: int, out: Path, dtype: Dtype) -> tuple[str, str]:
    """Write one task's pack and canary; return the pack's id and the canary's digest."""
    declared, record = program.declare(), run.record(task)
    arrays = {
        name: stored(name, tensor, declared[name], dtype) for name, tensor in run.part(task).items()
    }
    blob = write_tensors(arrays)
    blob_id = digest(blob)
    pack = Pack(
        task=task,
        name=record.name,
        program=program.name,
        interface=program.interface,
        backbone=program.spec.digest,
        classes=record.classes,
        known=record.known,
        moved=record.moved,
        tensors={
            name: PackTensor(
                dtype=str(array.dtype),
                shape=array.shape,
                axes=declared[name].axis_names,
                concat_axis=declared[name].concat_axis,
                blob=blob_id,
            )
            for name, array in arrays.items()
        }
        | (generated(declared) if task == 0 else {}),
        blobs={blob_id: len(blob)},
    )
    manifest = pack.to_bytes()
    check_readable(task, manifest)
    canary = write_tensors({"images": shrink(run.canary(task).numpy())})
    write_blob(out, blob)
    write_blob(out, canary)
    write_whole(out / PACKS / f"{digest(manifest)}.json", manifest)
    return digest(manifest), digest(canary)


def check_readable(task: int, manifest: bytes) -> None:
    """Check that a device would read a manifest: it has the same rules and limits.

    Raises:
        PackError: if not.
    """
    try:
        parse_pack(manifest)
    except DeployError as error:
        raise PackError(
            f"A device must read the pack of task {task}, got: {error.must}; found {error.found}. "
            "Rename the class with `edgecl classes rename`, or take the task back with "
            "`edgecl undo`."
        ) from error


def generated(declared: Mapping[str, TensorSpec]) -> dict[str, PackTensor]:
    """Describe the tensors that the device generates; only the first pack lists them."""
    made = {
        name: (item, item.generated)
        for name, item in declared.items()
        if item.generated is not None
    }
    return {
        name: PackTensor(
            dtype="float32",
            shape=item.shape(0),
            axes=item.axis_names,
            concat_axis=None,
            blob=None,
            generator=Generator(how.name, how.seed, probe(how.make(item.shape(0)).numpy())),
        )
        for name, (item, how) in made.items()
    }


def stored(name: str, tensor: Tensor, declared: TensorSpec, dtype: Dtype) -> NDArray[np.generic]:
    """Return a learned tensor in the dtype of a pack.

    Raises:
        PackError: if a value is not finite, or too large for float16.
    """
    array = tensor.numpy()
    if not np.isfinite(array).all():
        raise PackError(
            f"Every learned value must be finite, got {name} with NaN or infinity. "
            "Train the task again with a smaller learning rate."
        )
    if dtype == "float32" or not declared.half:
        return array
    largest = float(np.abs(array).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise PackError(
            f"float16 holds values up to 65504, got {name} with {largest:.4g}. Use --dtype float32."
        )
    return array.astype(np.float16)


def write_blob(out: Path, data: bytes) -> None:
    """Write a blob under its digest."""
    write_whole(out / BLOBS / f"{digest(data)}.safetensors", data)

"""Packs: what the tasks of a run learned, as content-addressed files."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgecl.learning.forgotten import Forgotten
from edgecl.learning.learner import Learner
from edgecl.learning.runs import Run
from edgecl.program import Program
from edgecl.program.learned import TensorSpec
from edgecl.session import program_of
from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import BLOBS, INDEX_FILE, PACKS
from edgecl_deploy.format import (
    OWN_SUBSPACE,
    Generator,
    Grid,
    OwnScores,
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
from edgecl_export.bits import in_bits
from edgecl_export.canaries import CANARIES, FORGOTTEN, shrink
from edgecl_export.errors import PackError
from edgecl_export.sources import run_of

Dtype = Literal["float16", "float32", "bits"]  # bits: of what BLIP rounded, float16 of all else
Told = Literal["subspace", "cosine"]  # by what an image of no class is told
RUN = "run"  # in index.json: the id of the run


def export_packs(
    source: Learner | Run | str | Path,
    out: str | Path,
    tasks: Sequence[int] | None = None,
    dtype: Dtype = "float16",
    unknown: Told = "subspace",
) -> list[str]:
    """Write the packs of a run's tasks into a folder; packs that are there stay.

    A pack whose task was taken back is no longer listed. One whose task has other names, or was
    learned again, is written again.

    Args:
        source: a learner, its run, or the run's folder.
        out: a new folder, or one that holds the packs of the earlier tasks.
        tasks: 0-based; None takes all that `out` does not hold.
        unknown: what tells an image of no class: the `subspace` of a class where the run has it, or
            the `cosine` with its mean alone, which takes a tenth of the bytes and tells less.

    Returns:
        The ids of all packs that the folder now holds, in the order of the tasks.

    Raises:
        PackError: if the run is empty, `out` holds packs of another run, or a task is not in the
            run or comes before the packs of earlier tasks are there.
    """
    run, out = run_of(source), Path(out)
    with run.reading():
        present = run.present()
        if not present:
            raise PackError(
                f"A pack holds what a task learned, got {run.path} without a finished task. "
                f"Go on with `edgecl train --resume {run.path}`."
            )
        exporter = Exporter(run, program_of(run), out, dtype, unknown)
        held, canaries = exporter.held()
        ids = {task: held[task] for task in present if task in held}
        for folder in (PACKS, BLOBS):
            (out / folder).mkdir(parents=True, exist_ok=True)
        for task in present if tasks is None else tasks:
            if task not in present:
                raise PackError(
                    f"--task must be a task of {run.path}, {', '.join(map(str, present))}, got "
                    f"{task}. Learn the task first."
                )
            missing = [former for former in present if former < task and former not in ids]
            if missing:
                raise PackError(
                    f"Packs are written in the order of their tasks: {out} holds {len(ids)}, "
                    f"got --task {task}. "
                    f"Export task {missing[0]} first, or all of them without --task."
                )
            if tasks is None and task in ids and exporter.is_current(task, ids[task]):
                continue
            name, canary = exporter.write(task)
            ids[task] = name
            canaries.pop(name, None)
            canaries |= {} if canary is None else {name: canary}
        for task, name in ids.items():
            if tasks is not None and task not in tasks and not exporter.is_current(task, name):
                raise PackError(
                    f"The packs of {out} must be those of {run.path}, which has changed task "
                    f"{task} since. Export all of them without --task."
                )
        order = tuple(ids[task] for task in sorted(ids))
        listed = {name: canaries[name] for name in order if name in canaries}
        gone = Forgotten.of(run)
        names = None if gone is None else gone.published()
        extra: dict[str, Any] = {CANARIES: listed, RUN: run.header.get("id")}
        extra[FORGOTTEN] = None if names is None else names.to_json()
        index = PackIndex(order, {key: each for key, each in extra.items() if each})
        check_readable("index.json", index.to_bytes(), parse_index)
        write_whole(out / INDEX_FILE, index.to_bytes())
    return list(order)


@dataclass(frozen=True)
class Exporter:
    """What writes the packs of a run."""

    run: Run
    program: Program
    out: Path
    dtype: Dtype
    unknown: Told = "subspace"

    def held(self) -> tuple[dict[int, str], dict[str, str]]:
        """Return the ids of the packs that are there, by task, and their canaries.

        Raises:
            PackError: if they are of another run.
        """
        if not (self.out / INDEX_FILE).exists():
            return {}, {}
        index = parse_index((self.out / INDEX_FILE).read_bytes())
        if not index.packs:
            return {}, {}
        if index.extra.get(RUN) != self.run.header.get("id") or not self.is_own(index.packs[:1]):
            first = parse_pack(read_pack(self.out, index.packs[0]))
            raise PackError(
                f"{self.out} must be new or hold packs of {self.run.path}, got those of another "
                f"run of {first.program}, the first with {', '.join(first.classes[:3])}. "
                "Write to a new folder."
            )
        tasks = (parse_pack(read_pack(self.out, name)).task for name in index.packs)
        return dict(zip(tasks, index.packs, strict=True)), dict(index.extra.get(CANARIES, {}))

    def is_own(self, ids: Sequence[str]) -> bool:
        """Return whether packs are of the run's program and backbone."""
        own = (self.program.interface, self.program.spec.digest)
        packs = (parse_pack(read_pack(self.out, name)) for name in ids)
        return all((pack.interface, pack.backbone) == own for pack in packs)

    def is_current(self, task: int, name: str) -> bool:
        """Return whether the run would write this very pack, with one choice or another."""
        scores = parse_pack(read_pack(self.out, name)).unknown
        unknown: Told = "cosine" if scores is not None and scores.also is None else "subspace"
        dtypes: tuple[Dtype, ...] = ("float16", "float32", "bits")
        for dtype in dtypes:
            with suppress(PackError):  # the dtype that it was not exported in may not fit
                if digest(self.made(task, dtype, unknown)[0]) == name:
                    return True
        return False

    def made(self, task: int, dtype: Dtype, unknown: Told) -> tuple[bytes, list[bytes]]:
        """Return the manifest and the blobs of one task's pack."""
        declared, record = self.program.declare(), self.run.record(task)
        part = self.run.part(task)
        arrays, grids, starts = self._tensors(task, dtype)
        blob = write_tensors(arrays)
        blob_id = digest(blob)
        scores, more = self._scores(task, unknown)
        blobs = [blob, *starts, *more]
        rows = Counter(record.classes)
        pack = Pack(
            task=task,
            name=record.name,
            program=self.program.name,
            interface=self.program.interface,
            backbone=self.program.spec.digest,
            classes=record.classes,
            known=record.known,
            moved=record.moved,
            merged=tuple(name for name, count in rows.items() if count > 1),
            tensors={
                name: PackTensor(
                    dtype=str(array.dtype) if name not in grids else "float32",
                    shape=array.shape if name not in grids else tuple(part[name].shape),
                    axes=declared[name].axis_names,
                    concat_axis=declared[name].concat_axis,
                    blob=blob_id,
                    bits=grids.get(name),
                )
                for name, array in arrays.items()
            }
            | (generated(declared) if task == min(self.run.present()) else {}),
            blobs={digest(each): len(each) for each in blobs},
            unknown=scores,
        )
        return pack.to_bytes(), blobs

    def _tensors(
        self, task: int, dtype: Dtype
    ) -> tuple[dict[str, NDArray[np.generic]], dict[str, Grid], list[bytes]]:
        """Return what the blob of a task's tensors holds, what is in bits, and further blobs.

        Raises:
            PackError: if nothing of the run is in bits, and that was asked for.
        """
        part, declared = self.run.part(task), self.program.declare()
        coded = in_bits(self.run, task, declared) if dtype == "bits" else {}
        if dtype == "bits" and not coded:
            raise PackError(
                f"--dtype bits is for tensors that a schedule with bits has rounded, got none in "
                f"task {task} of {self.run.path}. Train with --set schedule.bits=20, or export "
                "with --dtype float16."
            )
        plain: Dtype = "float16" if dtype == "bits" else dtype
        arrays: dict[str, NDArray[np.generic]] = {}
        for name, tensor in part.items():
            if name not in coded:
                arrays[name] = stored(name, tensor, declared[name], plain)
            elif len(coded[name].data) >= 4 * tensor.numel():  # of a few numbers
                arrays[name] = stored(name, tensor, declared[name], "float32")
                coded.pop(name)
            else:
                arrays[name] = coded[name].data
        starts = [each for found in coded.values() for each in found.starts]
        return arrays, {name: found.grid for name, found in coded.items()}, starts

    def _scores(self, task: int, unknown: Told) -> tuple[OwnScores | None, list[bytes]]:
        """Return what tells an image of none of the task's classes, and its blob."""
        rows, table = self.program.own_rows, self.run.scores(task)
        if rows is None or table is None:
            return None, []
        if unknown == "cosine":
            table = replace(table, directions=None, angles=None)
        blob = write_tensors(table.to_tensors())
        columns = rows.columns or (0, 0 if table.mean is None else table.mean.shape[1])
        also = None if table.directions is None else OWN_SUBSPACE
        return OwnScores(columns, rows.tensor, digest(blob), also=also), [blob]

    def write(self, task: int) -> tuple[str, str | None]:
        """Write one task's pack and canary; return the pack's id and the canary's digest.

        A task that was learned from sums has no image for a canary.
        """
        manifest, blobs = self.made(task, self.dtype, self.unknown)
        check_readable(f"the pack of task {task}", manifest, parse_pack)
        for each in blobs:
            write_blob(self.out, each)
        images, canary = self.run.canary(task).numpy(), None
        if len(images):
            data = write_tensors({"images": shrink(images)})
            write_blob(self.out, data)
            canary = digest(data)
        write_whole(self.out / PACKS / f"{digest(manifest)}.json", manifest)
        return digest(manifest), canary


def read_pack(out: Path, name: str) -> bytes:
    """Return the manifest of a pack."""
    return (out / PACKS / f"{name}.json").read_bytes()


def check_readable(what: str, manifest: bytes, parse: Callable[[bytes], object]) -> None:
    """Check that a device would read a manifest: it has the same rules and limits.

    Raises:
        PackError: if not.
    """
    try:
        parse(manifest)
    except DeployError as error:
        raise PackError(
            f"A device must read {what}, got: {error.must}; found {error.found}. "
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

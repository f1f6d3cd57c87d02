"""What the commands do: begin or open a run, learn its stream, add a task, sum up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

import torch

from edgecl.backbones import Backbone, Clip, load_backbone, load_clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.cache import cache_dir
from edgecl.errors import EdgeclError
from edgecl.learning.evaluation import evaluate
from edgecl.learning.learner import Learner, run_header, templates_of
from edgecl.learning.records import TaskRecord
from edgecl.learning.run_files import RunFiles, learned_only, without_trained
from edgecl.learning.runs import Run, RunError, json_bytes
from edgecl.learning.summary import Setting, Summary, summarise
from edgecl.learning.training import Compute
from edgecl.methods import build_method, methods
from edgecl.program import Program
from edgecl.program.learned import Tensors
from edgecl.report import write_report
from edgecl.streams import ImageSet, Stream, Task, load_stream, task_from_folder
from edgecl.streams.folders import progress
from edgecl.streams.protocols import declare
from edgecl_deploy.manifest.whole import write_whole
from edgecl_deploy.progress import Reporter

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]


def choose_compute(device: Device = "auto", precision: Precision = "auto") -> Compute:
    """Choose where to compute.

    `auto` takes a GPU where there is one, and bfloat16 where the hardware multiplies it.

    Raises:
        EdgeclError: if CUDA is asked for and absent.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise EdgeclError(
            "--device cuda needs an NVIDIA GPU that PyTorch sees, found none. Use --device cpu."
        )
    kind = "cuda" if device == "cuda" or (device == "auto" and has_cuda) else "cpu"
    fast = kind == "cuda" or _cpu_multiplies_bfloat16()
    return Compute(torch.device(kind), precision == "bfloat16" or (precision == "auto" and fast))


def _cpu_multiplies_bfloat16() -> bool:
    try:  # private names of torch, which a release may drop
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    except AttributeError:
        return False


def make_learner(
    run: Run,
    backbone: Backbone | Clip,
    compute: Compute,
    reporter: Reporter,
    cache: FeatureCache | None,
) -> Learner:
    """Build the learner that a run's header describes."""
    header = run.header
    backbone = as_needed(header["method"], backbone)
    method = build_method(header["method"], BackboneSpec.of(backbone), header["config"])
    visual = backbone.visual if isinstance(backbone, Clip) else backbone
    return Learner(
        run=run,
        method=method,
        backbone=visual,
        cache=cache or FeatureCache(cache_dir(), visual.digest, compute.device.type),
        compute=compute,
        seed=header["seed"],
        reporter=reporter,
        clip=backbone if isinstance(backbone, Clip) else None,
    )


def program_of(run: Run) -> Program:
    """Return the program of a run's method, without its backbone."""
    header = run.header
    spec = BackboneSpec.from_json(header["spec"])
    return build_method(header["method"], spec, header["config"]).program


def needs_text(method: str) -> bool:
    """Return whether a method runs on a CLIP only."""
    known = methods().get(method)
    return known is not None and known.needs_text


def load_towers(method: str, **spec: Any) -> Backbone | Clip:
    """Load what a method runs on: a CLIP where it needs the text tower, else a backbone."""
    return load_clip(**spec) if needs_text(method) else load_backbone(**spec)


def as_needed(method: str, backbone: Backbone | Clip) -> Backbone | Clip:
    """Return the image tower alone of a CLIP whose text tower the method has no use for."""
    return backbone.visual if isinstance(backbone, Clip) and not needs_text(method) else backbone


def new_learner(
    out: str | Path,
    method: str,
    backbone: Backbone | Clip,
    stream: Stream,
    *,
    config: Mapping[str, Any] | None = None,
    seed: int = 1993,
    protocol: str | None = None,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
    cache: FeatureCache | None = None,
) -> Learner:
    """Start a run folder; nothing is written when the method or its configuration does not fit.

    Args:
        backbone: a `Clip` for a method that needs its text tower.
        protocol: one of `protocols.PROTOCOLS`; the stream's own where there is none.
    """
    backbone = as_needed(method, backbone)
    built = build_method(method, BackboneSpec.of(backbone), config)
    compute = compute or choose_compute()
    precision = "bfloat16" if compute.bfloat16 else "float32"
    header = run_header(built, backbone, stream.spec, seed, precision)
    header["protocol"] = declare(stream, protocol, reads_names=needs_text(method))
    run = Run.create(Path(out), header)
    if stream.files.total:
        run.store_stream_files(RunFiles.of_stream(stream))
    return make_learner(run, backbone, compute, reporter or Reporter(), cache)


def open_learner(
    path: str | Path,
    *,
    device: Device = "auto",
    reporter: Reporter | None = None,
    backbone: Backbone | Clip | None = None,
    cache: FeatureCache | None = None,
) -> Learner:
    """Open a run with the precision that it was begun with.

    Raises:
        RunError: if the backbone's weights or preprocessing are no longer those of the run.
    """
    run = Run.open(Path(path))
    backbone = backbone or load_towers(run.header["method"], **run.header["backbone"])
    backbone = as_needed(run.header["method"], backbone)
    weights_digest = BackboneSpec.from_json(run.header["spec"]).weights_digest
    if backbone.digest != weights_digest:
        raise RunError(
            f"The run {path} was made on the backbone {weights_digest[:12]}, found "
            f"{backbone.digest[:12]}. Fetch the weights that it was made with."
        )
    templates = templates_of(backbone)
    if templates != run.header.get("templates", templates):
        raise RunError(
            f"The run {path} reads class names by the templates {run.header['templates']}, found "
            f"{templates}. Open it with a CLIP that has those."
        )
    compute = choose_compute(device, run.header["precision"])
    return make_learner(run, backbone, compute, reporter or Reporter(), cache)


def learn_task(
    learner: Learner,
    task: Task,
    class_names: Sequence[str],
    tests: Sequence[ImageSet] | None = None,
    later: Sequence[Task] = (),
    files: RunFiles | None = None,
) -> TaskRecord:
    """Learn the next task, evaluate it and commit both: the run holds all of it or nothing.

    Args:
        class_names: what the labels of the image sets index.
        tests: the test images of all tasks so far, this one's last; None evaluates nothing.
        later: the tasks to come, which a method that reads class names is tested on already.
        files: of the folder that the task is, where it is not one of a stream.
    """
    past = learner.run.knowledge()
    learned = learner.learn(task, class_names, past)
    evaluation = None
    if tests is not None:
        evaluation = evaluate(learner, past.after(learned), tests, class_names, later)
    learner.run.commit(learned, evaluation, files)
    return learned.record


def learn_stream(learner: Learner, stream: Stream) -> Summary:
    """Learn all tasks that the run does not hold yet, and sum up.

    Raises:
        RunError: if a finished task is not the stream's, or none of them was evaluated.
    """
    for task, classes in zip(stream.tasks, learner.run.class_rows(), strict=False):
        if task.classes != classes:
            raise RunError(
                f"The finished tasks of {learner.run.path} must be the stream's, got "
                f"{list(classes)} where {task.name} has {list(task.classes)}. Restore the stream's "
                "images, or begin a new run with --out; a task of another folder comes after the "
                "whole stream."
            )
    for index in range(len(learner.run), len(stream.tasks)):
        task = stream.tasks[index]
        learner.reporter.say(f"task {index + 1} of {len(stream.tasks)}: {', '.join(task.classes)}")
        tests = [earlier.test for earlier in stream.tasks[: index + 1]]
        learn_task(learner, task, stream.classes, tests, stream.tasks[index + 1 :])
    summary = sum_up(learner.run)
    if summary is None:
        raise RunError(
            f"The figures of a stream need tasks that were evaluated, got {learner.run.path}, "
            "whose first task was learned without test images. Begin a new run with --out."
        )
    return summary


def ignore(_: str) -> None:
    """Take a line for a person, and show it to nobody."""


def resume(
    learner: Learner, stream: str | Path | None = None, notice: Callable[[str], None] = ignore
) -> Summary:
    """Go on with a run whose stream was interrupted.

    Args:
        stream: where the folder of the stream is now, if it moved.
        notice: is given a line for each kind of change to the folder's files.

    Raises:
        RunError: if the run has no stream that can be built again, or it is not a folder that can
            move.
    """
    run = learner.run
    spec = run.header["stream"]
    if spec is None:
        raise RunError(
            f"--resume needs a run of a stream, got {run.path}, made from folders. "
            "Add tasks with `edgecl learn RUN IMAGES`."
        )
    if stream is not None and "root" not in spec:
        raise RunError(
            f"Only the folder of a stream can have moved, got the stream {spec['name']!r}. Leave "
            "--stream out."
        )
    if stream is not None:
        spec = {**spec, "root": str(Path(stream).expanduser().resolve())}
    with progress(learner.reporter):
        found = load_stream(**spec)
    before = run.stream_files()
    if before is not None and found.files.total:
        finished = min(len(run), len(found.tasks))
        for line in before.changes(RunFiles.of_stream(found)):
            notice(line)
        found = without_trained(found, before.trained(finished))
        run.store_stream_files(before.continued(RunFiles.of_stream(found), finished))
    if stream is not None:
        run.move_stream(spec["root"])
    return learn_stream(learner, found)


def learn_folder(learner: Learner, images: str | Path, name: str | None = None) -> TaskRecord:
    """Add one task from a folder of class folders; nothing of the former tasks is needed.

    It may bring more images of known classes: closed forms learn them as if they had come at once,
    other methods give the class one more row.
    """
    known = list(dict.fromkeys(name for rows in learner.run.class_rows() for name in rows))
    with progress(learner.reporter):
        task = task_from_folder(Path(images), known, name=name, protocol="dcil", test_fraction=0.0)
    task = replace(task, files=learned_only(task.files))
    names = [*known, *(c for c in task.classes if c not in known)]
    record = learn_task(learner, task, names, files=RunFiles.of_task(task))
    sum_up(learner.run)
    return record


def half_bytes(part: Tensors) -> int:
    """Return what the tensors of one task weigh in float16."""
    return sum(2 * tensor.numel() for tensor in part.values())


def sum_up(run: Run) -> Summary | None:
    """Write metrics.json and report.html of the finished tasks; return the figures.

    Tasks without an evaluation (learned from a folder, without the old test images) are named and
    not counted. Without any evaluation nothing is written.
    """
    found = (run.evaluation(task) for task in range(len(run)))
    evaluations = [one for one in takewhile(lambda one: one is not None, found) if one is not None]
    if not evaluations:
        return None
    header = run.header
    setting = Setting(
        method=header["method"],
        stream=(header["stream"] or {}).get("name", "folders"),
        protocol=header.get("protocol", "cil"),
        seed=header["seed"],
    )
    pack_bytes = [half_bytes(run.part(task)) for task in range(len(evaluations))]
    summary = summarise(setting, run.records(), evaluations, pack_bytes, run.accounts())
    write_whole(run.path / "metrics.json", json_bytes(summary.to_json()))
    write_report(run.path)
    return summary

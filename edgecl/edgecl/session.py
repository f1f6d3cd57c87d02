"""What the commands do: begin or open a run, learn its stream, add a task, sum up."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from edgecl.backbones import Backbone, Clip, load_backbone, load_clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.cache import cache_dir
from edgecl.errors import EdgeclError
from edgecl.learning import sums as statistics
from edgecl.learning.augment.augmentation import NONE, Plan
from edgecl.learning.changes import read_as_before, under_new_names
from edgecl.learning.evaluation import evaluate
from edgecl.learning.forgotten import check_stream
from edgecl.learning.learner import Learner, run_header, templates_of
from edgecl.learning.records import Evaluation, TaskRecord
from edgecl.learning.run_files import RunFiles, without_trained
from edgecl.learning.runs import KEEP, Run, RunError, json_bytes, log
from edgecl.learning.summary import Setting, Summary, summarise
from edgecl.learning.training import Compute
from edgecl.learning.window import find_window
from edgecl.methods import build_method, methods
from edgecl.program import Program
from edgecl.program.additive import ImageSums
from edgecl.program.classifiers.ridge import KEPT, Ridge
from edgecl.program.fitting import RidgeWeight
from edgecl.program.learned import Tensors
from edgecl.reading.reader import Reading
from edgecl.report import write_report
from edgecl.streams import ImageSet, PathSource, Stream, Task, load_stream, task_from_folder
from edgecl.streams.folders import progress
from edgecl.streams.protocols import declare
from edgecl_deploy.format import Statistics
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
    fast = _gpu_multiplies_bfloat16() if kind == "cuda" else _cpu_multiplies_bfloat16()
    return Compute(torch.device(kind), precision == "bfloat16" or (precision == "auto" and fast))


def _gpu_multiplies_bfloat16() -> bool:
    """Return whether it does; NVIDIA's below 8.0 (T4, V100, RTX 20) emulate it, which is slow."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


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
    reading: Reading | None = None,
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
        cache=cache or FeatureCache(cache_dir(), visual.digest, compute.processor),
        compute=compute,
        seed=header["seed"],
        reporter=reporter,
        clip=backbone if isinstance(backbone, Clip) else None,
        reading=reading or Reading(),
        plan=Plan.from_header(header),
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


def with_window(
    backbone: Backbone | Clip, stream: Stream, seed: int, reporter: Reporter
) -> Backbone | Clip:
    """Return the backbone with the window that the first task's images ask for; itself if none."""
    visual = backbone.visual if isinstance(backbone, Clip) else backbone
    if visual.preprocess.window is not None or not stream.tasks:
        return backbone
    window = find_window(stream.tasks[0].train, seed)
    if window is None:
        return backbone
    reporter.say(
        f"images of more than 8 bits: the levels {window[0]:g} to {window[1]:g} become black to "
        f"white (--window {window[0]:g},{window[1]:g})"
    )
    return backbone.with_window(window)


def check_templates(method: str, backbone: Backbone | Clip, stream: Stream) -> None:
    """Check the templates of a stream's tasks before anything is learned.

    A text that is too long for the CLIP is a BackboneError.

    Raises:
        EdgeclError: the method reads no class names.
    """
    for task in stream.tasks:
        if task.templates and not isinstance(backbone, Clip):
            raise EdgeclError(
                f"Templates of tasks need a method that reads class names, got {method}. Leave "
                "--task-templates out, or choose a vision-language method."
            )
        for template in task.templates:
            assert isinstance(backbone, Clip)
            TextEncoder(backbone).tokens(task.read_names, template)


def new_learner(
    out: str | Path,
    method: str,
    backbone: Backbone | Clip,
    stream: Stream,
    *,
    config: Mapping[str, Any] | None = None,
    seed: int = 1993,
    protocol: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    keep: int = KEEP,
    wait: bool = True,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
    cache: FeatureCache | None = None,
    reading: Reading | None = None,
    augment: str | Mapping[str, Any] = NONE,
    views: int | str | None = None,
) -> Learner:
    """Start a run folder; nothing is written when the method or its configuration does not fit.

    Where training images of the first task have more than 8 bits and the backbone's preprocessing
    has no window of levels, it is found from them.

    Args:
        backbone: a `Clip` for a method that needs its text tower.
        protocol: one of `protocols.PROTOCOLS`; the stream's own where there is none.
        recipe: the name of what the options are of, and what differs; the run holds it.
        keep: how many tasks `undo` can take back one after the other.
        wait: for another command that changes the run; else it is a RunError.
        reading: by how many threads images are read, and how much memory they may take.
        augment: how training images are augmented: `none`, `paper` for the method's public code, a
            name or the fields of an `Augmentation`.
        views: how many augmented views of an image the epochs read in turn, 0 for none; or `fresh`
            for one of its own in every epoch, as where None.
    """
    backbone = as_needed(method, backbone)
    built = build_method(method, BackboneSpec.of(backbone), config)
    plan = Plan.of(augment, views, built)
    reporter = reporter or Reporter()
    windowed = with_window(backbone, stream, seed, reporter)
    if windowed is not backbone:
        backbone = windowed
        built = build_method(method, BackboneSpec.of(backbone), config)
    check_templates(built.name, backbone, stream)
    compute = compute or choose_compute()
    precision = "bfloat16" if compute.bfloat16 else "float32"
    header = run_header(built, backbone, stream.spec, seed, precision, plan)
    header["protocol"] = declare(
        stream, protocol, reads_names=needs_text(method), needs_end=built.task_end()
    )
    header |= {"stream_tasks": len(stream.tasks), "keep": keep}
    header |= {} if recipe is None else {"recipe": dict(recipe)}
    run = Run.create(Path(out), header, wait=wait)
    if stream.files.total:
        run.store_stream_files(RunFiles.of_stream(stream))
    return make_learner(run, backbone, compute, reporter, cache, reading)


def open_learner(
    path: str | Path,
    *,
    device: Device = "auto",
    reporter: Reporter | None = None,
    backbone: Backbone | Clip | None = None,
    cache: FeatureCache | None = None,
    reading: Reading | None = None,
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
    return make_learner(run, backbone, compute, reporter or Reporter(), cache, reading)


def learn_task(
    learner: Learner,
    task: Task,
    class_names: Sequence[str],
    tests: Sequence[ImageSet] | None = None,
    later: Sequence[Task] = (),
    files: RunFiles | None = None,
    held_out: Sequence[Task] = (),
    weight: RidgeWeight = "choose",
    sums: ImageSums | None = None,
    sources: Sequence[str] = (),
) -> TaskRecord:
    """Learn the next task, evaluate it and commit both: the run holds all of it or nothing.

    Args:
        class_names: what the labels of the image sets index.
        tests: the test images of all tasks so far, this one's last; None evaluates nothing.
        later: the tasks to come, which a method that reads class names is tested on already.
        files: of the folder that the task is, where it is not one of a stream.
        held_out: tasks that are only tested.
        weight: the lambda of a ridge head, see `TaskContext`.
        sums: over the images of the task, which has none of its own then.
        sources: what those are of.

    Raises:
        RunError: if the method has no ridge head, and a weight is asked for.
    """
    if weight != "choose" and not isinstance(learner.method.program.classifier, Ridge):
        raise RunError(
            f"A weight is for a ridge head (ranpac, layup), got {learner.method.name}. "
            "Leave --weight out."
        )
    with learner.run.writing():
        learner.run.check_names(len(learner.run), task.name, task.classes)
        past = learner.run.knowledge()
        learned = learner.learn(task, class_names, past, weight, sums, sources)
        evaluation = None
        if tests is not None:
            after = past.after(learned)
            evaluation = evaluate(learner, after, tests, class_names, later, held_out)
        learner.run.commit(learned, evaluation, files)
    return learned.record


def learn_stream(learner: Learner, stream: Stream) -> Summary | None:
    """Learn all tasks that the run does not hold yet, and sum up.

    A finished task that is not the stream's is a RunError.

    Returns:
        The figures; None if no task was evaluated, or they could not be written.
    """
    with learner.run.writing():
        left_at = learner.run.setting("left_at", len(stream.tasks))
        stream = under_new_names(learner.run, replace(stream, tasks=stream.tasks[:left_at]))
        if learner.run.setting("stream_tasks", 0) != len(stream.tasks):
            learner.run.change(stream_tasks=len(stream.tasks))
        for index in range(len(learner.run), len(stream.tasks)):
            task = stream.tasks[index]
            learner.reporter.say(
                f"task {index + 1} of {len(stream.tasks)}: {', '.join(task.classes)}"
            )
            tests = [earlier.test for earlier in stream.tasks[: index + 1]]
            later, held_out = stream.tasks[index + 1 :], stream.held_out
            learn_task(learner, task, stream.classes, tests, later, held_out=held_out)
        learner.run.drop_states()  # a kill after the last commit left some
        return refresh(learner.run)


def ignore(_: str) -> None:
    """Take a line for a person, and show it to nobody."""


def resume(
    learner: Learner, stream: str | Path | None = None, notice: Callable[[str], None] = ignore
) -> Summary | None:
    """Go on with a run whose stream was interrupted.

    Args:
        stream: where the folder of the stream is now, if it moved.
        notice: is given a line for each kind of change to the folder's files.

    Raises:
        RunError: if the run has no stream that can be built again, or it is not a folder that can
            move.
    """
    run = learner.run
    check_stream(run)
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
    with run.writing():
        before = run.stream_files()
        if before is not None and found.files.total:
            finished = min(len(run), len(found.tasks))
            for line in before.changes(RunFiles.of_stream(found)):
                notice(line)
            found = without_trained(found, before.trained(finished))
            run.store_stream_files(before.continued(RunFiles.of_stream(found), finished))
        if stream is not None:
            run.change(stream={**run.header["stream"], "root": spec["root"]})
        return learn_stream(learner, found)


def learn_folder(
    learner: Learner,
    images: str | Path,
    name: str | None = None,
    *,
    keep: int | None = None,
    leave_stream: bool = False,
    weight: RidgeWeight = "choose",
) -> TaskRecord:
    """Add one task from a folder of class folders; nothing of the former tasks is needed.

    What its test part holds is measured over all classes learned so far; the figures of the stream
    stay what they are. It may bring more images of known classes: closed forms learn them as if
    they had come at once, other methods give the class one more row.

    Args:
        keep: how many tasks can be taken back from now on; as before where None.
        leave_stream: give up the tasks of the run's stream that it has not learned.
        weight: the lambda of a ridge head: `keep` the former task's, `choose` by the method's rule
            on these images, `gcv`, or a number above 0.

    A run whose stream is not finished, and not left, is a RunError.
    """
    run = learner.run
    with adding(run, leave_stream, keep) as known:
        task = read_as_before(run, new_task(learner, images, known, name))
        names = list(dict.fromkeys((*known, *task.classes)))
        tests = None
        if len(task.test):  # those of the former tasks may be gone
            tests = [*(task.test.subset([]) for _ in range(len(run))), task.test]
        files = RunFiles.of_task(task)
        return learn_task(learner, task, names, tests, files=files, weight=weight)


def new_task(
    learner: Learner, images: str | Path, known: Sequence[str], name: str | None = None
) -> Task:
    """Return what a folder of class folders brings to a run with known classes."""
    with progress(learner.reporter):
        return task_from_folder(Path(images), known, name=name, protocol="dcil", test_fraction=0.0)


def statistics_of(
    learner: Learner,
    images: str | Path,
    add: statistics.AddUp | None = None,
    notice: Callable[[str], None] = log.warning,
) -> Statistics:
    """Add up what the head of a run sees of a folder of class folders; the run stays as it is.

    `learn_statistics` learns it as `learn_folder` would learn the folder, with the same lambda. Of
    a folder with a test part the training images are added up.

    Args:
        add: where the parts are added up; here where None.
        notice: is told of each image that was skipped, and why.
    """
    run = learner.run
    past = run.knowledge()
    known = list(dict.fromkeys(past.classes))
    task = new_task(learner, images, known)
    names = list(dict.fromkeys((*known, *task.classes)))
    place = [task.classes.index(name) if name in task.classes else -1 for name in names]
    parts = (add or statistics.here)(learner, past, task.train, place)
    return statistics.added(learner, task, parts, past, notice)


def learn_statistics(
    learner: Learner,
    files: Sequence[Statistics],
    name: str,
    *,
    keep: int | None = None,
    leave_stream: bool = False,
    weight: RidgeWeight | None = None,
    agree: Callable[[str], None] = log.warning,
) -> TaskRecord:
    """Add one task from sums over images, which may be those of several devices; no image is read.

    Closed forms learn what they would of the images. Nothing is measured.

    Args:
        files: of different images.
        keep: as of `learn_folder`.
        leave_stream: as of `learn_folder`.
        weight: the lambda of a ridge head: `keep` the former task's, as where None, `gcv`, or a
            number above 0; a rule that looks at images cannot choose.
        agree: is told of each new class that is nearly another one, and may raise.

    A file that does not fit the run, or whose images were learned, is a StatisticsError.
    """
    run = learner.run
    with adding(run, leave_stream, keep) as known:
        past = run.knowledge()
        merged = statistics.merge(learner, past, files)
        for new, other, cosine in merged.alike:
            agree(f"{new!r} is nearly {other!r} (cosine of the means {cosine:.3f}): one class?")
        kept: RidgeWeight = "keep" if KEPT in past.state else "choose"
        none = ImageSet((), (), PathSource(()), ())
        task = read_as_before(run, Task(name, merged.classes, none, none))
        names = list(dict.fromkeys((*known, *task.classes)))
        return learn_task(
            learner, task, names, weight=kept if weight is None else weight,
            sums=merged.sums, sources=merged.sources,
        )  # fmt: skip


@contextmanager
def adding(run: Run, leave_stream: bool, keep: int | None) -> Iterator[list[str]]:
    """Add a task that is not the stream's, and sum up; yield the known classes.

    Args:
        keep: as of `learn_folder`.

    Raises:
        RunError: if the run's stream is not finished, and not left.
    """
    with run.writing():
        left = run.setting("stream_tasks", 0) - len(run)
        if left > 0 and not leave_stream:
            raise RunError(
                f"A run learns its stream first, got {run.path} with {left} of its tasks to come. "
                f"Finish it with `edgecl train --resume {run.path}`, or give them up with "
                "`edgecl learn --leave-stream`."
            )
        known = list(dict.fromkeys(name for rows in run.class_rows() for name in rows))
        with leaving(run) if left > 0 else nullcontext():
            yield known
        if keep is not None:
            run.change(keep=keep)
            run.drop_states()
        refresh(run)


@contextmanager
def leaving(run: Run) -> Iterator[None]:
    """Give up the rest of a run's stream, unless what is done instead fails."""
    tasks = run.setting("stream_tasks", 0)
    run.change(stream_tasks=len(run), left_at=len(run))
    try:
        yield
    except BaseException:
        run.change(stream_tasks=tasks, left_at=None)
        raise


def undo(run: Run, keep: int | None = None) -> TaskRecord:
    """Take the newest task back; return its record.

    Args:
        keep: how many tasks can be taken back from now on; as before where None.

    None to take back, or one that needs what is no longer there, is a RunError.
    """
    with run.writing():
        record = run.undo()
        if keep is not None:
            run.change(keep=keep)
            run.drop_states()
        refresh(run)
    return record


def refresh(run: Run) -> Summary | None:
    """Sum up after a change that is stored already: what fails is a warning."""
    try:
        return sum_up(run)
    except (OSError, ValueError, EdgeclError) as error:
        log.warning(
            "%s is whole, but its metrics.json and report.html were not written: %s",
            run.path,
            error,
        )
        return None


def half_bytes(part: Tensors) -> int:
    """Return what the tensors of one task weigh in float16."""
    return sum(2 * tensor.numel() for tensor in part.values())


def sum_up(run: Run) -> Summary | None:
    """Write metrics.json and report.html of the finished tasks; return the figures.

    Tasks without an evaluation of all tasks (learned from a folder, without the old test images)
    are named and not counted. Without any evaluation nothing is written, and what was written
    before is removed.
    """
    evaluations = evaluated(run)
    if not evaluations:
        for name in ("metrics.json", "report.html"):
            (run.path / name).unlink(missing_ok=True)
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


def evaluated(run: Run) -> list[Evaluation]:
    """Return the evaluations up to the first task without one of all tasks so far.

    A task that was learned from a folder is evaluated on its own test images alone.
    """
    found: list[Evaluation] = []
    for task in range(len(run)):
        one = run.evaluation(task)
        if one is None or (found and one.images[:task] != found[-1].images):
            break
        found.append(one)
    return found

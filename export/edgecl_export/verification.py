"""Verification: the device's own runtime against PyTorch.

All forms of the program run at every task count, on fresh images: with the first task and with all
of them at every batch size, between in the largest batch.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from edgecl.learning.learner import Learner
from edgecl.program import Outputs
from edgecl.program.learned import Tensors, join
from edgecl.session import Device
from edgecl_deploy import Classifier
from edgecl_deploy.engines import FLOAT32, Engine, make_engine
from edgecl_deploy.errors import OptionError
from edgecl_deploy.files import (
    BundleFiles,
    ReleaseFiles,
    read_bundle,
    read_release,
    write_release,
)
from edgecl_deploy.format import INT8, Release, learned_from, stored_tensors
from edgecl_deploy.forms import AUTO, Mode
from edgecl_deploy.progress import Reporter
from edgecl_export.errors import VerifyError
from edgecl_export.pack import generated
from edgecl_export.parity import FORMS, REFERENCE, relative_error, run, scale_of
from edgecl_export.quantize.reference import write_reference
from edgecl_export.quantize.rewriting import check_rounding
from edgecl_export.samples import stream_of
from edgecl_export.sources import learner_of
from edgecl_export.targets import check_bundle

BATCHES = (1, 2, 7)
REAL, RANDOM = 16, 4  # images
TIE = 1e-4  # scores closer than this may change places

Images = NDArray[np.uint8]


@dataclass
class Check:
    """The differences of one form from PyTorch, over task counts and batch sizes.

    Attributes:
        score_error: largest error of a score or feature against PyTorch, relative to their scale.
        disagreements: images whose label differs although their two best scores are further apart
            than a tie.
        match_disagreements: images whose match differs although it is no tie.
        batch_error: largest difference of a score between batch sizes and orders.
        images: how many answers were compared: of an image, at a task count and batch size.
    """

    form: str
    slots: str
    score_error: float = 0.0
    disagreements: int = 0
    match_disagreements: int = 0
    batch_error: float = 0.0
    images: int = 0


@dataclass(frozen=True)
class Verification:
    """The result of `verify`.

    Attributes:
        engine: its name and version.
        precision: in which the device ran. Where it only multiplies weights that are rounded in
            the file, it must equal these; where its engine rounds more, errors are against PyTorch,
            which the tolerance of the release's licence bounds, and decide nothing here.
        agreement: share of real images on which the float32 run and the packs on the device choose
            the same label.
        mismatches: in which packs of the release a tensor or a class differs from the run's.
        refused: what targets (`edgecl_export.targets`) would refuse of the program's graph for a
            GPU, by their names; no failure, since other engines take it.
    """

    method: str
    engine: str
    tasks: int
    tolerance: float
    checks: tuple[Check, ...]
    agreement: float
    mismatches: tuple[str, ...]
    precision: str = FLOAT32
    exact: bool = True
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def failures(self) -> list[str]:
        """Return one sentence for each difference that is too large."""
        found = list(self.mismatches)
        for check in self.checks:
            name = f"{check.form}/{check.slots}"
            if self.exact:
                found += self._errors(name, check)
            if check.batch_error > self.tolerance:
                found.append(f"{name}: a score depends on the batch by {check.batch_error:.2e}")
        return found

    def _errors(self, name: str, check: Check) -> Iterator[str]:
        if check.score_error > self.tolerance:
            yield f"{name}: score error {check.score_error:.2e}"
        if check.disagreements:
            yield f"{name}: {check.disagreements} of {check.images} labels differ"
        if check.match_disagreements:
            yield f"{name}: {check.match_disagreements} of {check.images} matches differ"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "failures": self.failures()}


def verify(
    source: Learner | str | Path,
    bundle: str | Path,
    release: str | Path,
    *,
    device: Device = "auto",
    engine: str = REFERENCE,
    precision: str = FLOAT32,
    reporter: Reporter | None = None,
) -> Verification:
    """Compare PyTorch with the device's runtime.

    Args:
        source: the learner that the release was made from, or the folder of its run.
        device: what PyTorch computes on when it opens a run.
        engine: what runs the program, as a device names it. A form that it cannot run is left out.
        precision: in which it runs; the release must be licensed for it.

    Raises:
        VerifyError: if a form errs by more than the program's tolerance, decides differently, or
            depends on the batch; or if the release's packs are not those of the run.
    """
    learner = learner_of(source, device=device, reporter=reporter)
    files, opened = read_release(release), read_bundle(bundle)
    real, random = real_images(learner), random_images(learner)
    images = np.concatenate([real, random])
    runner = make_engine(engine)
    mode = Mode.fitting(runner, Mode(AUTO, AUTO, precision))
    mode.check(runner)
    checks = [Check(*each) for each in FORMS if can_run(runner, *each, precision)]
    check_graphs(opened, files.release.program)
    if precision != FLOAT32:  # a self-test by the licence: what follows looks at prefixes without
        Classifier(opened, runner, mode).take(files, strict=True)
    exact = precision == FLOAT32 or (precision == INT8 and engine == REFERENCE)
    with tempfile.TemporaryDirectory() as scratch:
        prefixes = [read_release(each) for each in write_prefixes(files, Path(scratch))]
        if exact and precision == INT8:
            rounded = write_reference(opened, files.release.program, Path(scratch) / "reference")
            reference = Classifier(read_bundle(rounded), make_engine(REFERENCE))
            expected = [answer(reference, prefix, images) for prefix in prefixes]
        else:
            expected = [predict(learner, opened, prefix, images) for prefix in prefixes]
        for check in checks:
            classifier = Classifier(opened, runner, Mode(check.form, check.slots, precision))
            for at, (prefix, want) in enumerate(zip(prefixes, expected, strict=True)):
                classifier.serve(classifier.load(prefix))
                compare(check, classifier, images, want, at in {0, len(prefixes) - 1})
        learned = join(learner.declared, learner.run.parts()[: files.packs[-1].task + 1])
        agreement = agree(learner, classifier, real, learned)
    result = Verification(
        method=learner.method.name,
        engine=f"{engine} {runner.version}",
        tasks=len(prefixes),
        tolerance=opened.bundle.program(files.release.program).tolerance["scores"],
        checks=tuple(checks),
        agreement=agreement,
        mismatches=tuple(mismatched_packs(learner, files)),
        precision=precision,
        exact=exact,
        refused=check_bundle(bundle, programs=(files.release.program,)),
    )
    if result.failures():
        raise VerifyError(
            f"The device must equal PyTorch within {result.tolerance:g}, found: "
            f"{'; '.join(result.failures())}. "
            "Export the bundle again; report it if the difference stays."
        )
    return result


def check_graphs(bundle: BundleFiles, program: str) -> None:
    """Check that no graph of a program rounds anything but weights, which is a GraphError."""
    for name in {ref.file for ref in bundle.bundle.program(program).files()}:
        check_rounding(ir.load(bundle.path / name))


def answer(device: Classifier, files: ReleaseFiles, images: Images) -> Outputs:
    """Return what a device computes with a release."""
    device.serve(device.load(files))
    out = device.scores(images)
    return Outputs(
        *(torch.from_numpy(each) for each in (out.scores, out.feature, out.match, out.match_score))
    )


def predict(learner: Learner, bundle: BundleFiles, files: ReleaseFiles, images: Images) -> Outputs:
    """Return what PyTorch computes with the packs of a release."""
    program = bundle.bundle.program(files.release.program)
    arrays = learned_from(program, files.packs, files.blobs)
    learned = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return learner.predict(images, learned)


def can_run(engine: Engine, form: str, slots: str, precision: str = FLOAT32) -> bool:
    """Return whether an engine runs a form in a precision."""
    try:
        Mode(form, slots, precision).check(engine)
    except OptionError:
        return False
    return True


def mismatched_packs(learner: Learner, files: ReleaseFiles) -> Iterator[str]:
    """Yield where packs differ from a run's tasks by more than the rounding of their dtype."""
    run = learner.run
    for at, pack in enumerate(files.packs):
        task = pack.task
        if task >= len(run) or pack.classes != run.record(task).classes:
            yield f"pack {task}: no task of this run has its classes"
            continue
        if pack.moved != run.record(task).moved:
            yield f"pack {task}: it moves other classes than the run's task"
        part = {name: tensor.numpy() for name, tensor in run.part(task).items()}
        held = stored_tensors(pack, files.blobs)
        for name in sorted(part.keys() | held.keys()):
            if name not in part or name not in held:
                yield f"pack {task}: only the {'pack' if name in held else 'run'} has {name}"
            elif not np.array_equal(part[name].astype(held[name].dtype), held[name]):
                yield f"pack {task}: its {name} is not the run's"
        made = {name: each.generator for name, each in pack.tensors.items() if each.generator}
        own = {name: each.generator for name, each in generated(learner.declared).items()}
        if made != (own if at == 0 else {}):
            yield f"pack {task}: what it generates is not the run's"


def compare(check: Check, device: Classifier, images: Images, want: Outputs, batches: bool) -> None:
    """Run a form and record the differences.

    Args:
        batches: at every batch size and in another order, too.
    """
    scores, match = want.scores.numpy(), want.match.numpy()
    scale = scale_of(scores)
    at_batch = [run(device, images, batch) for batch in (BATCHES if batches else BATCHES[-1:])]
    first = at_batch[0]
    for got in at_batch:
        check.score_error = max(check.score_error, relative_error(got, want))
        check.batch_error = max(check.batch_error, distance(got.scores, first.scores) / scale)
        check.disagreements += int(differ(got.scores, scores).sum())
        check.match_disagreements += int(
            ((got.match != match).any(axis=1) & ~ties(want.match_score.numpy())).sum()
        )
        check.images += len(images)
    if batches:
        order = np.random.Generator(np.random.Philox(0)).permutation(len(images))
        shuffled = run(device, images[order], BATCHES[-1])
        moved = distance(shuffled.scores, first.scores[order])
        check.batch_error = max(check.batch_error, moved / scale)


def distance(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """Return the largest difference; infinity if one is NaN."""
    return float(np.nan_to_num(np.abs(got - want), nan=np.inf).max())


def differ(got: NDArray[np.float32], want: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return for each image whether the labels differ by more than a tie."""
    rows = np.arange(len(want))
    best = want.argmax(axis=1)
    gap = want[rows, best] - want[rows, got.argmax(axis=1)]
    differs: NDArray[np.bool_] = gap > TIE * scale_of(want)
    return differs


def ties(match_score: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return for each image whether two matches are so close that rounding decides their order."""
    if match_score.shape[1] < 2:
        return np.zeros(len(match_score), bool)
    return np.asarray((np.abs(np.diff(match_score, axis=1)) < TIE).any(axis=1))


def agree(learner: Learner, device: Classifier, images: Images, learned: Tensors) -> float:
    """Return the share of images on which the float32 run and the device choose the same row."""
    mine = learner.predict(images, learned).scores.argmax(dim=-1).numpy()
    return float((device.scores(images).scores.argmax(axis=1) == mine).mean())


def real_images(learner: Learner) -> Images:
    """Return test images of the run's stream where it can be read, and the run's canaries."""
    found = [learner.run.canary(task).numpy() for task in range(len(learner.run))]
    stream = stream_of(learner)
    for task in () if stream is None else stream.tasks[: len(learner.run)]:
        few = task.test.subset(range(min(4, len(task.test))))
        found.append(np.asarray(learner.load(few, "images").images))
    shown = [images for images in found if len(images)]
    return np.concatenate(shown or [random_images(learner)])[:REAL]


def random_images(learner: Learner) -> Images:
    """Return fresh noise."""
    size = learner.backbone.preprocess.size
    return np.random.default_rng().integers(0, 256, (RANDOM, size, size, 3), dtype=np.uint8)


def write_prefixes(files: ReleaseFiles, scratch: Path) -> Iterator[Path]:
    """Write a release without canaries for every task count."""
    ids: Sequence[str] = files.release.packs
    for count in range(1, len(ids) + 1):
        release = Release(
            number=count,
            parent=None,
            bundle=files.release.bundle,
            backbone=files.release.backbone,
            program=files.release.program,
            interface=files.release.interface,
            packs=tuple(ids[:count]),
        )
        manifests = {name: files.manifests[name] for name in ids[:count]}
        wanted = {name for pack in files.packs[:count] for name in pack.blobs}
        write_release(
            scratch / str(count),
            release,
            manifests,
            {name: data for name, data in files.blobs.items() if name in wanted},
        )
        yield scratch / str(count)

"""The incremental loop: a learner learns the next task from what its run holds and the images."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones import Backbone, Clip
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.text_encoder import TextEncoder, class_texts
from edgecl.backbones.vit import Features
from edgecl.errors import EdgeclError
from edgecl.learning.augment.augmentation import FRESH, Plan
from edgecl.learning.augment.views import Canvas, Seen, Views, canvases_of, with_squares
from edgecl.learning.exemplars import Memory, keep, remember, share_of
from edgecl.learning.injected_passes import InjectedPasses, same_for_all_images
from edgecl.learning.moments import attention_moments
from edgecl.learning.own_scores import scores_of
from edgecl.learning.policies.uncertainty import uncertainty
from edgecl.learning.records import Knowledge, LearnedTask, TaskRecord, split_policies
from edgecl.learning.runs import Run
from edgecl.learning.task_images import Encoder, ImageBatch, Images, TaskImages
from edgecl.learning.training import Compute, train_task
from edgecl.methods import AnyMethod
from edgecl.program import Outputs
from edgecl.program.additive import ImageSums
from edgecl.program.fitting import NOTHING, FitResult, RidgeWeight, TaskContext
from edgecl.program.learned import Tensors, join, start_part, with_part
from edgecl.reading.constant import Constant, complaint
from edgecl.reading.reader import Reading
from edgecl.reading.scratch import Scratch
from edgecl.streams import ImageSet, Task
from edgecl.streams.protocols import PROTOCOLS
from edgecl_deploy.manifest.names import spelled
from edgecl_deploy.progress import Reporter
from edgecl_deploy.unknown.table import Table

CANARIES = 1  # training images of each task that the run stores, for the self-test of devices


class LearnerError(EdgeclError):
    """A task cannot be learned as it is."""


@dataclass
class Learner:
    """A method on a backbone, with a run folder as its memory.

    Attributes:
        cache: where frozen features are stored.
        compute: the device and precision of training.
        clip: of whose image tower `backbone` is, where the method needs its text tower.
        reading: how images are read, and how much memory they take.
        plan: how training images are augmented; None where they are as tests are.
    """

    run: Run
    method: AnyMethod
    backbone: Backbone
    cache: FeatureCache
    compute: Compute
    seed: int
    reporter: Reporter = field(default_factory=Reporter)
    clip: Clip | None = None
    reading: Reading = field(default_factory=Reading)
    plan: Plan | None = None

    def __post_init__(self) -> None:
        self.backbone.model.to(self.compute.device)
        self.text: TextEncoder | None = None
        if self.clip is not None:
            self.clip.text.to(self.compute.device)
            self.text = TextEncoder(self.clip, self.compute.bfloat16)
        self.normalise = self.backbone.preprocess.normalise
        self.program = self.method.program
        self.declared = self.program.declare()
        self.scratch = Scratch(self.reading.memory)
        self._tests: dict[int, tuple[ImageSet, ImageBatch]] = {}
        self._injected = InjectedPasses(self.program)

    @property
    def towers(self) -> Backbone | Clip:
        """Return what the method runs on."""
        return self.clip or self.backbone

    @property
    def moves(self) -> bool:
        """Return whether more images of a known class may move its row: tasks are no domains."""
        return PROTOCOLS[self.run.header.get("protocol", "cil")].of_stream == "cil"

    @property
    def encoder(self) -> Encoder:
        """Return what runs the method's passes over images."""
        return Encoder(
            self.method, self.backbone, self.cache, self.compute, self.reporter,
            self.reading.workers, self.scratch,
        )  # fmt: skip

    def learned(self) -> Tensors:
        """Return the learned tensors of all finished tasks."""
        return join(self.declared, self.run.parts())

    # -- images and predictions

    def load(self, images: ImageSet, title: str) -> ImageBatch:
        """Decode and preprocess; a broken image is skipped and named."""
        return self.encoder.load(images, title)

    def load_test(self, images: ImageSet) -> ImageBatch:
        """Load test images, which every later task asks for again."""
        if id(images) not in self._tests:
            batch = self.load(images, "test images")
            self._tests[id(images)] = (images, batch)  # the set is held, so its id stays its own
        return self._tests[id(images)][1]

    def answers(self, images: ImageSet, heads: Sequence[Tensors]) -> list[Outputs]:
        """Classify test images as `classified` does; what is injected as before does not run again.

        Args:
            heads: learned tensors that differ in the class rows only.
        """
        batch = self.load_test(images).images
        if not len(batch) or not same_for_all_images(self.program):
            return self.classified(batch, heads)
        encoder = self.encoder
        learned, plain = encoder.on_device(heads[0]), encoder.plain(batch)

        def run(branch: int | None) -> Features:
            return encoder.run_injected(batch, learned, plain, branch)

        return self.classified(batch, heads, self._injected.features(id(images), heads[0], run))

    def predict(self, images: Images, learned: Tensors | None = None) -> Outputs:
        """Classify preprocessed images uint8 [n, h, w, 3] with all that was learned, in float32."""
        return self.classified(images, [self.learned() if learned is None else learned])[0]

    @torch.no_grad()
    def classified(
        self, images: Images, heads: Sequence[Tensors], injected: Features | None = None
    ) -> list[Outputs]:
        """Classify images with learned tensors that differ in the class rows only.

        Args:
            injected: their features of the injected passes, if they are known.
        """
        encoder = self.encoder
        heads = [encoder.on_device(learned) for learned in heads]
        batches: list[list[list[Tensor]]] = [[] for _ in heads]
        plain = encoder.plain(images)
        batched = encoder.encode(images, heads[0], plain, "predicting", injected=injected)
        for encoded, count in batched:
            for each, learned in zip(batches, heads, strict=True):
                outputs = self.program.classify(encoded, learned)
                each.append([tensor[:count].cpu() for tensor in outputs])
        return [
            Outputs(*(torch.cat(column) for column in zip(*each, strict=True))) for each in batches
        ]

    # -- learning

    def learn(
        self,
        task: Task,
        class_names: Sequence[str],
        past: Knowledge,
        weight: RidgeWeight = "choose",
        sums: ImageSums | None = None,
        sources: Sequence[str] = (),
    ) -> LearnedTask:
        """Learn the next task; the run holds nothing of it until it is committed.

        Args:
            class_names: what the labels of the image sets index.
            past: what the run has learned so far.
            weight: of a method with a ridge head, see `TaskContext`.
            sums: over the images of the task, which has none of its own then.
            sources: what those are of.

        A class without a readable training image is a LearnerError.
        """
        began = time.perf_counter()
        if sums is None:
            images, canvases = self._load_task(task, class_names, len(past.parts))
        else:
            images, canvases = self._no_images(), []
        context = replace(self._context(task, images, past), weight=weight, sums=sums)
        kept, part = split_policies(self._train(context, images, past, canvases))
        del canvases
        local = {name: part.pop(name) for name in self.method.local() if name in part}
        fitted = self._fit(context, images, part, local)
        state = (local if self.method.warm_start else {}) | kept | fitted.state
        memory = None
        if self.method.config.memory:
            learned = with_part(self.declared, context.learned, part | fitted.part)
            memory = self._remember(past, images, learned)
        if memory is not None:
            state |= memory.to_state()
        former = set(past.classes)
        record = TaskRecord(
            task=context.index,
            name=task.name,
            classes=task.classes,
            known=tuple(name for name in task.classes if name in former),
            class_images=tuple(context.counts.tolist()),
            skipped=tuple(map(spelled, (*task.skipped, *images.skipped))),
            constant=tuple(map(spelled, images.constant)),
            seconds=round(time.perf_counter() - began, 3),
            state_bytes=sum(tensor.nbytes for tensor in state.values()),
            exemplars=0 if memory is None else len(memory),
            state=tuple(sorted(state)),
            moved=fitted.moved,
            texts=task.texts,
            templates=task.templates,
            sources=tuple(sources),
        )
        canary = torch.from_numpy(images.images[:CANARIES])
        examples = images.examples(task.classes)
        own = fitted.sums if self.method.config.sums == "task" else {}
        found = LearnedTask(
            record, part | fitted.part, state, canary, examples, own,
            canary_rows=images.labels[:CANARIES].clone(),
        )  # fmt: skip
        if sums is not None:
            return replace(found, scores=self._no_scores(found, past, sums))
        return replace(found, scores=self._own_scores(found, images, fitted.feature, past))

    def _no_scores(self, task: LearnedTask, past: Knowledge, sums: ImageSums) -> Table | None:
        """Return the table of a task without images; None where nothing is there to compare with.

        No image has a score, but the rows are those of the images.
        """
        rows = self.program.own_rows
        if rows is None:
            return None
        means = None
        if rows.tensor is None:
            if sums.normed is None:
                return None
            means = (sums.normed / sums.counts[:, None]).numpy()
        former = [table for table in past.scores if table is not None]
        return Table.of([np.empty(0)] * len(task.record.classes), former, means)

    def _own_scores(
        self, task: LearnedTask, images: TaskImages, feature: Tensor | None, past: Knowledge
    ) -> Table | None:
        """Return the scores of the task's images for their own class; None where none would last.

        Args:
            feature: of the images, if `fit` has computed it.
        """
        rows = self.program.own_rows
        if rows is None:
            return None
        after = past.after(task)
        if feature is None:
            classifier, learned = self.program.classifier, join(self.declared, after.parts)
            feature = images.encode(
                lambda encoded, _: {"feature": classifier.feature(encoded)}, learned
            )["feature"]
        counts = after.row_images[len(past.classes) :]
        former = [table for table in past.scores if table is not None]
        return scores_of(rows, feature, images.labels, task.part, counts, former)

    def _no_images(self) -> TaskImages:
        """Return the images of a task of which sums alone are known."""
        side = self.backbone.preprocess.size
        pixels = np.zeros((0, side, side, 3), np.uint8)
        return TaskImages(pixels, torch.zeros(0, dtype=torch.long), (), self.encoder)

    def _load_task(
        self, task: Task, class_names: Sequence[str], index: int
    ) -> tuple[TaskImages, list[Canvas]]:
        """Load the training images, and where views of them will train, the whole pictures."""
        batch = self.load(task.train, f"{task.name}: images")
        row = {name: index for index, name in enumerate(task.classes)}
        labels = torch.tensor([row[class_names[label]] for label in batch.labels]).long()
        complete(task, labels.tolist(), batch.skipped, batch.constant)
        constant = tuple(map(str, batch.constant.values()))
        images = TaskImages(batch.images, labels, batch.skipped, self.encoder, constant)
        if self.plan is None or not self.method.is_trained(index):
            return images, []
        preprocess, augmentation = self.backbone.preprocess, self.plan.augmentation
        return images, canvases_of(
            task.train, batch.positions, preprocess, augmentation, self.reporter,
            images.encoder.scratch, images.encoder.workers,
        )  # fmt: skip

    def _context(self, task: Task, images: TaskImages, past: Knowledge) -> TaskContext:
        """Return what the method is given of the task before its training.

        A memory that is too small for one image of each class is an ExemplarError.
        """
        index = len(past.parts)
        class_rows = (*past.classes, *task.classes)
        if self.method.config.memory:
            share_of(self.method.config.memory, images.images[0].nbytes, len(class_rows))
        return TaskContext(
            index=index,
            classes=len(task.classes),
            class_rows=class_rows,
            labels=images.labels,
            plain=None,
            features={},
            learned=join(self.declared, past.parts),
            state=split_policies(past.state)[1],
            generator=torch.Generator().manual_seed(self.seed * 100_003 + index),
            text_encoder=self.text,
            row_images=past.row_images,
            moves=self.moves,
            read_as=(*past.read_as, *class_texts(task.read_names, task.templates)),
            device=self.compute.device,
            look=lambda: images.plain,
        )

    def _train(
        self,
        context: TaskContext,
        images: TaskImages,
        past: Knowledge,
        canvases: Sequence[Canvas],
    ) -> Tensors:
        """Return the task's tensors after its training, with local ones and what policies keep."""
        method, trained = self.method, self.method.is_trained(context.index)
        fresh = start_part(
            self.declared, context.learned, context.classes, context.generator, trained
        )
        former = context.learned
        before = replace(
            context,
            encode=lambda gather, instead=NOTHING: images.encode(gather, {**former, **instead}),
            moments=lambda: attention_moments(images, former),
        )
        part = method.begin_task(before, fresh)
        if not trained:
            return part
        all_images = images.with_memory(past.memory, len(context.class_rows) - context.classes)
        learned = with_part(self.declared, context.learned, part)
        in_training = replace(
            context,
            labels=all_images.labels,
            plain=all_images.plain if self.plan is None else None,  # views have their own
            look=lambda: all_images.plain,
            features=self._teacher_features(all_images, learned),
        )
        if method.forgets == "tasks":
            in_training = in_training.apart(join(self.declared, []))
        ends = train_task(
            method, self.backbone.model, self.normalise, in_training, part, all_images.tensor,
            self.compute, self.reporter, self._views(all_images, canvases, learned),
            split_policies(past.state)[0],
        )  # fmt: skip
        kept, part = split_policies(ends)
        return method.end_task(context, part) | kept

    def _views(
        self, images: TaskImages, canvases: Sequence[Canvas], learned: Tensors
    ) -> Views | None:
        """Return what the training sees; None where it sees the images as they are tested.

        Args:
            images: of the training, remembered ones last.
            canvases: of the task's own images.
            learned: what the training starts from.
        """
        if self.plan is None:
            return None
        fresh, quiet = self.plan.count == FRESH, replace(self.encoder, reporter=Reporter())

        def look(pixels: NDArray[np.uint8]) -> Seen:
            encoder = quiet
            if fresh:  # nobody asks for its features again
                encoder = replace(quiet, cache=FeatureCache(None, self.backbone.digest))
            view = replace(images, images=pixels, encoder=encoder)
            return view.plain, self._teacher_features(view, learned)

        squares = images.tensor[len(canvases) :]
        preprocess, device = self.backbone.preprocess, self.compute.device
        needed = self.encoder.stores_plain or self.method.teachers
        return Views(
            self.plan, with_squares(canvases, squares), self.seed, preprocess.size, device,
            look if needed else None, self.encoder.scratch,
        )  # fmt: skip

    def _teacher_features(self, images: TaskImages, learned: Tensors) -> Tensors:
        """Return the features that the method's teachers have of the images.

        Args:
            learned: what the training starts from.
        """
        features: Tensors = {}
        if "initial" in self.method.teachers:
            features["initial"] = images.frozen.cls
        if "former" in self.method.teachers:
            features |= images.encode(
                lambda encoded, _: {"former": encoded.features("injected").cls}, learned, "teacher"
            )
        return features

    def _fit(
        self, context: TaskContext, images: TaskImages, part: Tensors, local: Tensors
    ) -> FitResult:
        """Compute what is not trained, and what the next task needs to know of this one."""
        learned = with_part(self.declared, context.learned, part)
        after = replace(
            context,
            learned=learned | local,
            encode=lambda gather, instead=NOTHING: images.encode(gather, {**learned, **instead}),
            moments=lambda: attention_moments(images, learned),
        )
        return self.method.fit(after)

    def _remember(self, past: Knowledge, images: TaskImages, learned: Tensors) -> Memory:
        """Return the memory after the task."""
        class_rows, budget = images.labels + len(past.classes), self.method.config.memory
        if self.method.config.memory_by == "uncertainty":
            scores = uncertainty(images, learned, self.seed)
            return keep(past.memory, images.tensor, class_rows, scores, budget, fill=True)
        return remember(past.memory, images.tensor, class_rows, images.frozen.cls, budget)


def complete(
    task: Task, labels: Sequence[int], skipped: Sequence[str], constant: Mapping[int, Constant]
) -> None:
    """Check that enough is left of a task where images could not be read.

    Args:
        labels: the class of each image that could, counted from the task's first.
        skipped: one line for every other one.
        constant: the images of one colour, by their positions.

    Raises:
        LearnerError: if a class of the task has no readable one, or nothing is left of a class or
            of most images.
    """
    there = set(labels)
    for row, name in enumerate(task.classes):
        if row not in there:
            why = "; ".join([f"{len(skipped)} skipped", *skipped[:1]])
            raise LearnerError(
                f"Every class of a task needs a readable training image, got none for {name!r} "
                f"of {task.name} ({why}). Add images or drop the class."
            )
    of_image = [task.classes[label] for label in labels]
    if wrong := complaint(task.name, task.classes, of_image, constant):
        raise LearnerError(wrong)


def templates_of(backbone: Backbone | Clip) -> list[str]:
    """Return what class names are read by; nothing where no text is."""
    return list(backbone.templates) if isinstance(backbone, Clip) else []


def run_header(
    method: AnyMethod,
    backbone: Backbone | Clip,
    stream: dict[str, Any] | None,
    seed: int,
    precision: str,
    plan: Plan | None = None,
) -> dict[str, Any]:
    """Return what run.json must hold to build the same learner again, and who the run is."""
    return {
        "id": secrets.token_hex(8),
        "method": method.name,
        "config": asdict(method.config),
        "backbone": backbone.spec,
        "spec": method.spec.to_json(),
        "templates": templates_of(backbone),
        "interface": method.program.interface,
        "stream": stream,
        "seed": seed,
        "precision": precision,
        **Plan.header(plan),
    }

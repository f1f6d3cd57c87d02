"""The incremental loop: learn a task, evaluate, save.

A learner goes on from its run folder and the new task's images alone.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones import Backbone, BackboneError, Clip
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.backbones.vit import Features
from edgecl.errors import EdgeclError
from edgecl.learning.evaluation import evaluate
from edgecl.learning.exemplars import IMAGES, ROWS, remembered, share_of
from edgecl.learning.feature_cache import FeatureCache, image_keys, padded
from edgecl.learning.runs import Run
from edgecl.learning.training import Compute, train_task
from edgecl.methods.base import Method
from edgecl.program import Outputs
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import Gather, TaskContext
from edgecl.program.learned import Tensors, join, start_part, with_part
from edgecl.progress import Reporter
from edgecl.streams import BrokenImageError, ImageSet, Task

BATCH = 32  # images of a forward pass outside training
KEPT_BYTES = 1 << 30  # of preprocessed test images in memory
CANARIES = 1  # training images per task that the run keeps, for the self-test of devices


class LearnerError(EdgeclError):
    """A task cannot be learned as it is."""


@dataclass(frozen=True)
class ImageBatch:
    """Preprocessed images of one set, without the broken ones.

    Attributes:
        images: uint8 [n, h, w, 3].
        labels: as in the set.
        skipped: one line for every image that could not be decoded.
    """

    images: NDArray[np.uint8]
    labels: tuple[int, ...]
    skipped: tuple[str, ...]


@dataclass
class Learner:
    """A method on a backbone, with a run folder as its memory.

    Attributes:
        cache: where frozen features are kept.
        compute: the device and precision of training.
        clip: of whose image tower `backbone` is, where the method needs its text tower.
    """

    run: Run
    method: Method[Any]
    backbone: Backbone
    cache: FeatureCache
    compute: Compute
    seed: int
    reporter: Reporter = field(default_factory=Reporter)
    clip: Clip | None = None

    def __post_init__(self) -> None:
        self.backbone.model.to(self.compute.device)
        self.text: TextEncoder | None = None
        if self.clip is not None:
            self.clip.text.to(self.compute.device)
            self.text = TextEncoder(self.clip, self.compute.bfloat16)
        self.normalise = self.backbone.preprocess.normalise
        self.program = self.method.program
        self.declared = self.program.declare()
        self._tests: dict[int, tuple[ImageSet, ImageBatch]] = {}

    @property
    def towers(self) -> Backbone | Clip:
        """Return what the method runs on."""
        return self.clip or self.backbone

    def learned(self, extra: Sequence[Tensors] = ()) -> Tensors:
        """Return the learned tensors of all finished tasks."""
        return join(self.declared, [*self.run.parts(), *extra])

    def load(self, images: ImageSet, title: str) -> ImageBatch:
        """Decode and preprocess; a broken image is skipped and named."""
        pixels: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        skipped: list[str] = []
        with self.reporter.bar(title, len(images)) as advance:
            for index, label in enumerate(images.labels):
                try:
                    pixels.append(self.backbone.preprocess(images.image(index)))
                    labels.append(label)
                except BrokenImageError as error:
                    skipped.append(str(error))
                except BackboneError as error:
                    skipped.append(f"{images.names[index]}: {error}")
                advance()
        size = self.backbone.preprocess.size
        stacked = np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
        return ImageBatch(stacked, tuple(labels), tuple(skipped))

    def load_test(self, images: ImageSet) -> ImageBatch:
        """Load test images, which every later task asks for again; keep as many as fit."""
        if id(images) not in self._tests:
            pictures = self.load(images, "test images")
            kept = sum(known.images.nbytes for _, known in self._tests.values())
            if kept + pictures.images.nbytes > KEPT_BYTES:
                return pictures
            self._tests[id(images)] = (images, pictures)  # the set is held, so its id stays its own
        return self._tests[id(images)][1]

    def _batches(self, images: NDArray[np.uint8], title: str) -> Any:
        with self.reporter.bar(title, len(images)) as advance:
            for start in range(0, max(1, len(images)), BATCH):  # no image: one batch of padding
                batch = torch.from_numpy(images[start : start + BATCH])
                yield start, len(batch), padded(batch, BATCH).to(self.compute.device)
                advance(len(batch))

    @torch.no_grad()
    def plain(self, images: NDArray[np.uint8]) -> Features | None:
        """Return the frozen features, from the cache if known; None if the method has no use.

        A method that reads all rows behind the last block has none: they are too many to keep.
        """
        if "plain" not in self.program.passes or self.program.reads_tokens or not len(images):
            return None
        return self.frozen(images)

    @torch.no_grad()
    def frozen(self, images: NDArray[np.uint8]) -> Features:
        """Return the features without injection, from the cache if known, of at least one image."""
        taps = self.program.taps
        keys = image_keys(images, taps)
        unknown = self.cache.missing(keys)
        if unknown:
            done = [
                self.backbone
                .model(self.normalise(batch), taps=taps)
                .select(slice(count))
                .map(Tensor.cpu)
                .named()
                for _, count, batch in self._batches(images[unknown], "features")
            ]
            features = Features(**{name: torch.cat([f[name] for f in done]) for name in done[0]})
            self.cache.put([keys[index] for index in unknown], features)
        return self.cache.get(keys)

    def _on_device(self, learned: Tensors) -> Tensors:
        return {name: tensor.to(self.compute.device) for name, tensor in learned.items()}

    @torch.no_grad()
    def _encoded(
        self, images: NDArray[np.uint8], learned: Tensors, title: str, *, own: bool = False
    ) -> Iterator[tuple[Encoded, int]]:
        """Run the passes of the method over images in float32; one batch is held at a time.

        Args:
            learned: on the device.
            own: the images are those of the task that is learned.
        """
        plain = self.plain(images)
        for start, count, batch in self._batches(images, title):
            known = None
            if plain is not None:
                rows = plain.select(slice(start, start + count))
                known = rows.map(lambda f: padded_rows(f, BATCH).to(self.compute.device))
            pixels, model = self.normalise(batch), self.backbone.model
            yield self.program.encode(model, pixels, learned, known, training=own), count

    def predict(self, images: NDArray[np.uint8], learned: Tensors | None = None) -> Outputs:
        """Classify preprocessed images uint8 [n, h, w, 3] with all that was learned, in float32."""
        return self.classified(images, [self.learned() if learned is None else learned])[0]

    @torch.no_grad()
    def classified(self, images: NDArray[np.uint8], heads: Sequence[Tensors]) -> list[Outputs]:
        """Classify images with tensors that differ in the rows of the classifier only."""
        heads = [self._on_device(learned) for learned in heads]
        made: list[list[list[Tensor]]] = [[] for _ in heads]
        for encoded, count in self._encoded(images, heads[0], "predicting"):
            for outputs, learned in zip(made, heads, strict=True):
                said = self.program.classify(encoded, learned)
                outputs.append([out[:count].cpu() for out in said])
        return [
            Outputs(*(torch.cat(column) for column in zip(*outputs, strict=True)))
            for outputs in made
        ]

    def learn(
        self,
        task: Task,
        class_names: Sequence[str],
        tests: Sequence[ImageSet] | None = None,
        ahead: Sequence[Task] = (),
    ) -> dict[str, Any]:
        """Learn the next task, evaluate and commit; return its record.

        Args:
            class_names: what the labels of the image sets index.
            tests: the test images of all tasks so far, this one's last; None evaluates nothing.
            ahead: the tasks to come, whose tests a method that reads class names is held to.

        A class without a readable training image is a LearnerError.
        """
        began = time.perf_counter()
        index = len(self.run)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + index)
        pictures = self.load(task.train, f"{task.name}: images")
        labels = self._rows_of(task, pictures, class_names)
        plain = self.plain(pictures.images)
        prior, kept = self.learned(), self.run.state()
        memory = {name: kept.pop(name) for name in (IMAGES, ROWS) if name in kept}
        trained = self.method.is_trained(index)
        former = [name for rows in self.run.class_rows() for name in rows]
        view = TaskContext(
            index=index,
            classes=len(task.classes),
            class_rows=(*former, *task.classes),
            labels=labels,
            plain=plain,
            features={},
            learned=prior,
            state=kept,
            generator=generator,
            text_encoder=self.text,
        )
        if self.method.config.memory and len(pictures.images):
            share_of(
                self.method.config.memory, pictures.images[0].nbytes, len(view.class_rows)
            )  # or an error
        fresh = start_part(self.declared, prior, view.classes, generator, trained)
        part = self.method.begin_task(view, fresh)
        if trained:
            images, rehearsed = self._with_memory(pictures.images, view, memory)
            teacher_features = self._teacher_features(
                images.numpy(), with_part(self.declared, prior, part)
            )
            rehearsed = replace(rehearsed, features=teacher_features)
            part = train_task(
                self.method, self.backbone.model, self.normalise, rehearsed, part, images,
                self.compute, self.reporter,
            )  # fmt: skip
            part = self.method.end_task(view, part)
        local = {name: part.pop(name) for name in self.method.local() if name in part}
        kept = dict(local) if self.method.warm_start else {}
        learned = with_part(self.declared, prior, part)
        after = replace(
            view,
            learned=learned | local,
            encode=lambda gather: self._gather(pictures.images, learned, gather),
        )
        fitted = self.method.fit(after)
        part |= fitted.part
        kept |= fitted.state
        if self.method.config.memory:
            plain = plain or self.frozen(pictures.images)
            images = torch.from_numpy(pictures.images)
            rows_of = labels + len(former)
            kept |= remembered(memory, images, rows_of, plain.cls, self.method.config.memory)
        seconds = time.perf_counter() - began
        before = set(former)
        record = {
            "task": index,
            "name": task.name,
            "classes": list(task.classes),
            "known": [name for name in task.classes if name in before],
            "train_images": len(labels),
            "skipped": [*task.skipped, *pictures.skipped],
            "seconds": round(seconds, 3),
            "state_bytes": sum(tensor.nbytes for tensor in kept.values()),
            "exemplars": len(kept.get(ROWS, ())),
        }
        evaluation = None
        if tests is not None:
            rows = [*self.run.class_rows(), task.classes]
            learned = self.learned([part])
            to_come = ahead if self.method.needs_text else None
            evaluation = evaluate(self, tests, class_names, learned, rows, to_come, kept)
        canary = torch.from_numpy(pictures.images[:CANARIES])
        self.run.commit(record, part, evaluation, canary, kept)
        return record

    def _with_memory(
        self, images: NDArray[np.uint8], view: TaskContext, memory: Tensors
    ) -> tuple[UInt8[Tensor, "n h w 3"], TaskContext]:
        """Return the images that train a task, those that the run remembers last, and their view.

        A remembered image's label is below 0: it too is counted from the task's first row.
        """
        if not memory:
            return torch.from_numpy(images), view
        images = np.concatenate([images, memory[IMAGES].numpy()])
        labels = torch.cat([view.labels, memory[ROWS] - (len(view.class_rows) - view.classes)])
        rehearsed = replace(view, labels=labels, plain=self.plain(images))
        return torch.from_numpy(images), rehearsed

    @torch.no_grad()
    def _gather(self, images: NDArray[np.uint8], learned: Tensors, gather: Gather) -> Tensors:
        """Return what a function makes of the encoded images, one row per image."""
        learned = self._on_device(learned)
        encoded = self._encoded(images, learned, "statistics", own=True)
        found = [
            {name: part[:count].cpu() for name, part in gather(each, learned).items()}
            for each, count in encoded
        ]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    def _teacher_features(self, images: NDArray[np.uint8], learned: Tensors) -> Tensors:
        """Return the features that the method's teachers have of the images.

        Args:
            learned: what the training starts from.
        """
        teacher_features: Tensors = {}
        if "initial" in self.method.teachers:
            teacher_features["initial"] = self.frozen(images).cls
        if "former" in self.method.teachers:
            encoded = self._encoded(images, self._on_device(learned), "teacher", own=True)
            rows = [each.features("injected").cls[:count].cpu() for each, count in encoded]
            teacher_features["former"] = torch.cat(rows)
        return teacher_features

    def _rows_of(
        self, task: Task, pictures: ImageBatch, class_names: Sequence[str]
    ) -> Int[Tensor, " n"]:
        """Return each image's row inside the task.

        Raises:
            LearnerError: if a class of the task has no readable training image.
        """
        row = {name: index for index, name in enumerate(task.classes)}
        labels = torch.tensor(
            [row[class_names[label]] for label in pictures.labels], dtype=torch.int64
        )
        counts = torch.bincount(labels, minlength=len(task.classes))
        for name, count in zip(task.classes, counts.tolist(), strict=True):
            if not count:
                raise LearnerError(
                    f"Every class of a task needs a readable training image, got none for {name!r} "
                    f"of {task.name} ({len(pictures.skipped)} skipped). "
                    "Add images or drop the class."
                )
        return labels


def padded_rows(rows: Tensor, size: int) -> Tensor:
    """Fill rows [n, d] with zeros up to `size`."""
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def templates_of(backbone: Backbone | Clip) -> list[str]:
    """Return what class names are read by; nothing where no text is."""
    return list(backbone.templates) if isinstance(backbone, Clip) else []


def run_header(
    method: Method[Any],
    backbone: Backbone | Clip,
    stream: dict[str, Any] | None,
    seed: int,
    precision: str,
) -> dict[str, Any]:
    """Return what run.json must hold to build the same learner again."""
    return {
        "method": method.name,
        "config": asdict(method.config),
        "backbone": backbone.spec,
        "spec": method.spec.to_json(),
        "templates": templates_of(backbone),
        "interface": method.program.interface,
        "stream": stream,
        "seed": seed,
        "precision": precision,
    }

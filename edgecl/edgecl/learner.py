"""The incremental loop: learn a task, evaluate, save.

A learner goes on from its run folder and the new task's images alone.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from edgecl.backbones import Backbone, BackboneError
from edgecl.backbones.vit import Features
from edgecl.classifiers import ClosedForm, Encoded
from edgecl.errors import EdgeclError
from edgecl.features import FeatureCache, image_keys, padded
from edgecl.learned import Tensors, join
from edgecl.methods.base import Method
from edgecl.program import Outputs, classify, encode
from edgecl.progress import Reporter
from edgecl.runs import Run
from edgecl.streams import BrokenImageError, ImageSet, Task
from edgecl.training import Compute, TaskData, train_task, with_part

BATCH = 32  # images of a forward pass outside training
KEPT_BYTES = 1 << 30  # of preprocessed test images in memory
CANARIES = 1  # training images per task that the run keeps, for the self-test of devices


class LearnerError(EdgeclError):
    """A task cannot be learned as it is."""


@dataclass(frozen=True)
class Pictures:
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
    """

    run: Run
    method: Method
    backbone: Backbone
    cache: FeatureCache
    compute: Compute
    seed: int
    reporter: Reporter = field(default_factory=Reporter)

    def __post_init__(self) -> None:
        self.backbone.model.to(self.compute.device)
        self.normalise = self.backbone.preprocess.normalise
        self.declared = self.method.declare()
        self._tests: dict[int, tuple[ImageSet, Pictures]] = {}

    def learned(self, extra: Sequence[Tensors] = ()) -> Tensors:
        """Return the learned tensors of all finished tasks."""
        return join(self.declared, [*self.run.parts(), *extra])

    def load(self, images: ImageSet, title: str) -> Pictures:
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
        return Pictures(stacked, tuple(labels), tuple(skipped))

    def _load_test(self, images: ImageSet) -> Pictures:
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
        """Return the frozen features, from the cache if known; None if the method has no use."""
        if "plain" not in self.method.passes or not len(images):
            return None
        keys = image_keys(images)
        unknown = self.cache.missing(keys)
        if unknown:
            done = [
                [f[:count].cpu() for f in self.backbone.model(self.normalise(batch))]
                for _, count, batch in self._batches(images[unknown], "features")
            ]
            features = Features(*(torch.cat(column) for column in zip(*done, strict=True)))
            self.cache.put([keys[index] for index in unknown], features)
        return self.cache.get(keys)

    def _on_device(self, learned: Tensors) -> Tensors:
        return {name: tensor.to(self.compute.device) for name, tensor in learned.items()}

    @torch.no_grad()
    def _encoded(
        self, images: NDArray[np.uint8], learned: Tensors, title: str
    ) -> list[tuple[Encoded, int]]:
        """Run the passes of the method over images, batch by batch, in float32.

        Args:
            learned: on the device.
        """
        plain = self.plain(images)
        done = []
        for start, count, batch in self._batches(images, title):
            known = None
            if plain is not None:
                rows = [f[start : start + count].to(self.compute.device) for f in plain]
                known = Features(*(padded_rows(row, BATCH) for row in rows))
            done.append((
                encode(self.method, self.backbone.model, self.normalise(batch), learned, known),
                count,
            ))
        return done

    @torch.no_grad()
    def predict(self, images: NDArray[np.uint8], learned: Tensors | None = None) -> Outputs:
        """Classify preprocessed images uint8 [n, h, w, 3] with all that was learned, in float32."""
        learned = self._on_device(self.learned() if learned is None else learned)
        outputs = [
            [out[:count].cpu() for out in classify(self.method, encoded, learned)]
            for encoded, count in self._encoded(images, learned, "predicting")
        ]
        return Outputs(*(torch.cat(column) for column in zip(*outputs, strict=True)))

    def learn(
        self,
        task: Task,
        class_names: Sequence[str],
        tests: Sequence[ImageSet] | None = None,
    ) -> dict[str, Any]:
        """Learn the next task, evaluate and commit; return its record.

        Args:
            class_names: what the labels of the image sets index.
            tests: the test images of all tasks so far, this one's last; None evaluates nothing.

        A class without a readable training image is a LearnerError.
        """
        began = time.perf_counter()
        index = len(self.run)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + index)
        pictures = self.load(task.train, f"{task.name}: images")
        labels = self._rows_of(task, pictures, class_names)
        plain = self.plain(pictures.images)
        prior = self.learned()
        part: Tensors = {}
        if self.method.trains(index):
            data = TaskData(torch.from_numpy(pictures.images), labels, plain)
            part = train_task(
                self.method,
                self.backbone.model,
                self.normalise,
                prior,
                data,
                len(task.classes),
                generator,
                self.compute,
                self.reporter,
            )
        classifier = self.method.classifier
        if isinstance(classifier, ClosedForm):
            learned = self._on_device(with_part(self.declared, prior, part))
            features = torch.cat([
                classifier.feature(encoded)[:count].cpu()
                for encoded, count in self._encoded(pictures.images, learned, "class means")
            ])
            part |= classifier.fit(features, labels, len(task.classes))
        seconds = time.perf_counter() - began
        before = {name for rows in self.run.rows() for name in rows}
        record = {
            "task": index,
            "name": task.name,
            "classes": list(task.classes),
            "known": [name for name in task.classes if name in before],
            "train_images": len(labels),
            "skipped": [*task.skipped, *pictures.skipped],
            "seconds": round(seconds, 3),
        }
        evaluation = None
        if tests is not None:
            rows = [*self.run.rows(), task.classes]
            evaluation = self.evaluate(tests, class_names, self.learned([part]), rows)
        canary = torch.from_numpy(pictures.images[:CANARIES])
        self.run.commit(record, part, evaluation, canary)
        return record

    def _rows_of(
        self, task: Task, pictures: Pictures, class_names: Sequence[str]
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

    def evaluate(
        self,
        tests: Sequence[ImageSet],
        class_names: Sequence[str],
        learned: Tensors,
        rows: Sequence[Sequence[str]],
    ) -> dict[str, Any]:
        """Evaluate over all classes seen so far; no task label is used anywhere.

        Args:
            rows: per task the classes of its rows of the classifier.

        Returns:
            accuracy: per task, in 0..1.
            images: per task, how many were tested.
            confusion: true task by the task that owns the predicted row.
            match: how often each index of the bank was chosen, empty where nothing is matched.
        """
        row_class = [name for names in rows for name in names]
        row_task = [task for task, names in enumerate(rows) for _ in names]
        accuracy, counts, confusion = [], [], []
        chosen: Counter[int] = Counter()
        for test in tests:
            pictures = self._load_test(test)
            tasks = [0] * len(tests)
            right = 0
            if pictures.labels:
                outputs = self.predict(pictures.images, learned)
                predicted = outputs.scores.argmax(dim=-1).tolist()
                right = sum(
                    row_class[row] == class_names[label]
                    for row, label in zip(predicted, pictures.labels, strict=True)
                )
                for row in predicted:
                    tasks[row_task[row]] += 1
                if self.method.matcher.name != "none":
                    chosen.update(outputs.match.flatten().tolist())
            accuracy.append(right / len(pictures.labels) if pictures.labels else 0.0)
            counts.append(len(pictures.labels))
            confusion.append(tasks)
        return {
            "accuracy": accuracy,
            "images": counts,
            "confusion": confusion,
            "match": {str(index): chosen[index] for index in sorted(chosen)},
        }


def padded_rows(rows: Tensor, size: int) -> Tensor:
    """Fill rows [n, d] with zeros up to `size`."""
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def run_header(
    method: Method, backbone: Backbone, stream: dict[str, Any] | None, seed: int, precision: str
) -> dict[str, Any]:
    """Return what run.json must hold to build the same learner again."""
    return {
        "method": method.name,
        "config": asdict(method.config),
        "backbone": backbone.spec,
        "place": method.place.to_json(),
        "interface": method.interface,
        "stream": stream,
        "seed": seed,
        "precision": precision,
    }

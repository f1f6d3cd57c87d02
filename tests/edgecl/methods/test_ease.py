"""EASE: one task is APER's adapted branch; synthesis, weights and what a task may change."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.ease import Subspaces, synthesised
from edgecl.program.classifiers import CosinePrototypes, Encoded
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream
from edgecl_export.bundle import export_program

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]


def encoded(features: Tensor) -> Encoded:
    nothing = Match(torch.zeros(len(features), 1, dtype=torch.int64), torch.ones(len(features), 1))
    return Encoded(None, nothing, Features(features, torch.zeros_like(features)))


def test_one_task_is_the_adapted_branch_of_aper(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Cosine of the adapted feature to the mean adapted feature of each class."""
    stream = make_stream(((0, 1, 2),))
    learner = make_learner("ease", stream)
    learn_stream(learner, stream)
    part = learner.run.part(0)
    aper = build_method("aper-adapter", learner.method.spec, {"rank": 64})
    images = learner.load(stream.tasks[0].train, "")
    pixels = learner.normalise(torch.from_numpy(images.images[:]))
    injector = aper.program.injector
    adapters = {name: part[name][0] for name in injector.declare()}
    with torch.no_grad():
        cls = learner.backbone.model(pixels, injector.sites(adapters)).cls
    head = CosinePrototypes(192, ("injected",))
    means = torch.stack([cls[torch.tensor(images.labels) == row].mean(dim=0) for row in range(3)])
    want = head.scores(encoded(cls), {"prototypes": means.unsqueeze(1)})
    torch.testing.assert_close(learner.predict(images.images).scores, want, rtol=0, atol=1e-5)


def test_synthesis_by_hand() -> None:
    """Class 0 of task 0 is, in subspace 0, as near to class 1 as to class 2, both of task 1."""
    prototypes = torch.tensor([
        [[1.0, 0.0], [9.0, 9.0]],  # task 0; its row in subspace 1 is not known
        [[1.0, 1.0], [2.0, 0.0]],  # task 1
        [[1.0, -1.0], [0.0, 4.0]],
    ])
    filled = synthesised(prototypes, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(filled[0, 1], torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(filled[1:], prototypes[1:])
    torch.testing.assert_close(filled[:, 0], prototypes[:, 0])
    prototypes[2, 0] = torch.tensor([1.0, 0.0])  # nearer: cosine 1 against 1 / sqrt(2)
    near = torch.tensor([0.5**0.5, 1.0]).softmax(dim=0)
    filled = synthesised(prototypes, torch.tensor([0, 1, 1]))
    torch.testing.assert_close(filled[0, 1], torch.stack([2 * near[0], 4 * near[1]]))


def test_later_classes_take_part_in_the_synthesis() -> None:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(4, 3, 5, generator=generator)
    owners = torch.tensor([0, 1, 2, 2])
    filled = synthesised(prototypes, owners)
    for n, o, mine in ((1, 0, 0), (2, 0, 0), (2, 1, 1)):
        known = [row for row in range(4) if owners[row] >= n]
        cosine = torch.stack([
            F.cosine_similarity(prototypes[mine, o], prototypes[row, o], dim=0) for row in known
        ])
        want = sum(
            weight * prototypes[row, n]
            for weight, row in zip(cosine.softmax(dim=0), known, strict=True)
        )
        torch.testing.assert_close(filled[mine, n], want)


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_scores_by_hand(tasks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, tasks, 5, generator=generator)
    prototypes = torch.randn(4, tasks, 5, generator=generator)
    owners = sorted([0, 0, tasks - 1, tasks // 2])
    rows = torch.bincount(torch.tensor(owners), minlength=tasks).float()
    learned = {"prototypes": prototypes, "task_rows": rows}
    scores = Subspaces(5, 0.3).scores(encoded(features), learned)
    for image in range(2):
        for row, task in enumerate(owners):
            cosine = F.cosine_similarity(features[image], prototypes[row], dim=-1)
            others = [cosine[other] for other in range(tasks) if other != task]
            want = cosine[task] + (0.3 * sum(others) / len(others) if others else 0)
            torch.testing.assert_close(scores[image, row], want)


def test_a_task_adds_an_adapter_and_replaces_the_prototypes(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0,), (1, 2), (3,)))
    learner = make_learner("ease", stream)
    learn_stream(learner, stream)
    learned = learner.learned()
    assert learned["adapter_down"].shape[0] == 3
    assert [part["prototypes"].shape[:2] for part in learner.run.parts()] == [
        (1, 1), (3, 2), (4, 3),
    ]  # fmt: skip
    assert learned["task_rows"].tolist() == [1, 2, 1]
    before, after = (learner.run.part(task)["prototypes"] for task in (1, 2))
    torch.testing.assert_close(after[1:3, :2], before[1:3, :2])  # means of images stay
    assert not torch.equal(after[0, 1], before[0, 1])  # one more class to be synthesised from


def test_the_plain_backbone_counts_by_beta() -> None:
    generator = torch.Generator().manual_seed(0)
    features, plain = torch.randn(2, 2, 5, generator=generator), torch.randn(2, 5)
    learned = {
        "prototypes": torch.randn(3, 2, 5, generator=generator),
        "plain_prototypes": torch.randn(3, 5, generator=generator),
        "task_rows": torch.tensor([2.0, 1.0]),
    }
    images = encoded(features)._replace(plain=Features(plain, plain))
    without = Subspaces(5, 0.3).scores(images, learned)
    scores = Subspaces(5, 0.3, beta=0.7).scores(images, learned)
    for image in range(2):
        for row in range(3):
            cosine = F.cosine_similarity(plain[image], learned["plain_prototypes"][row], dim=0)
            torch.testing.assert_close(scores[image, row], without[image, row] + 0.7 * cosine)


def test_the_plain_backbone_learns_exports_and_ships_append_only(
    make_learner: MakeLearner, make_stream: MakeStream, tmp_path: Path
) -> None:
    """The export ends with the check of all forms against PyTorch."""
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("ease", stream, config={"beta": 1.0})
    learn_stream(learner, stream)
    assert learner.method.program.passes == ("plain", "injected")
    for task, part in zip(stream.tasks, learner.run.parts(), strict=True):
        images = learner.load(task.train, "")
        features, labels = learner.encoder.plain(images.images), torch.tensor(images.labels)
        assert features is not None
        means = torch.stack([features.cls[labels == row].mean(dim=0) for row in labels.unique()])
        torch.testing.assert_close(part["plain_prototypes"], means)
    export_program(learner.method.program, learner.backbone, tmp_path / "bundle")
    assert learner.program.interface != build_method("ease", learner.method.spec).program.interface


def test_a_rank_of_nothing(tiny_backbone: Backbone) -> None:
    with pytest.raises(MethodError, match=r"ease.rank must be at least 1, got 0. Raise it"):
        build_method("ease", BackboneSpec.of(tiny_backbone), {"rank": 0})

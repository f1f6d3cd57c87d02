"""Ridge heads: equal to the joint solution, and what RanPAC and LayUP add to it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.layup import WEIGHTS as LAYUP_WEIGHTS
from edgecl.methods.layup import Taps
from edgecl.methods.ranpac import WEIGHTS, RandomFeatures
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.ridge import (
    Ridge,
    Sums,
    balanced,
    held_out_scores,
    one_hot,
    predictions,
)
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
D, COUNT, CLASSES = 12, 90, 6
WEIGHT = 0.3


class Fixed(Ridge):
    """A ridge head whose weight is given."""

    def choose(
        self, features: Tensor, classes: Tensor, total: Sums, generator: torch.Generator
    ) -> float:
        return WEIGHT


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 30 * torch.randn(COUNT, D, generator=generator)
    return features, torch.arange(COUNT) % CLASSES


def joint(features: Tensor, classes: Tensor, weight: float = WEIGHT) -> Tensor:
    """Return the head of all images at once, by plain linear algebra."""
    h, y = features.double(), F.one_hot(classes).double()
    return torch.linalg.solve(h.T @ h + weight * torch.eye(h.shape[1]).double(), h.T @ y).T


def fit(
    classifier: Ridge,
    features: Tensor,
    labels: Tensor,
    rows: tuple[str, ...],
    classes: int,
    state: Tensors | None = None,
    learned: Tensors | None = None,
) -> FitResult:
    return classifier.fit(
        TaskContext(
            index=0, classes=classes, class_rows=rows, labels=labels, plain=None,
            features={"feature": features}, learned=learned or {}, state=state or {},
            generator=torch.Generator().manual_seed(0),
        )
    )  # fmt: skip


def head_of(part: Tensors) -> Tensor:
    return part["head_weight"].double() * part["head_scale"].double()[:, None]


# -- the mathematics


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("seed", [None, 1])
def test_any_order_of_tasks_and_images_is_the_joint_solution(
    data: tuple[Tensor, Tensor], order: tuple[int, ...], seed: int | None
) -> None:
    features, classes = data
    classifier, fitted, rows = Fixed(D, "plain"), FitResult(), ()
    for task in order:
        own = torch.nonzero(classes // 2 == task).flatten()
        if seed is not None:
            own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))]
        rows = (*rows, *(f"class {c}" for c in (2 * task, 2 * task + 1)))
        fitted = fit(classifier, features[own], classes[own] % 2, rows, 2, fitted.state)
    part, state = fitted.part, fitted.state
    want = joint(features, classes)
    got = Sums(state["gram"], state["moments"]).solve(WEIGHT).T
    at = [rows.index(f"class {c}") for c in range(CLASSES)]
    torch.testing.assert_close(got[at], want, rtol=1e-6, atol=1e-6 * want.abs().max().item())
    torch.testing.assert_close(
        head_of(part)[at], want, rtol=1e-6, atol=1e-6 * want.abs().max().item()
    )
    assert state["gram"].dtype == state["moments"].dtype == torch.float64


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_batches_leave_no_trace(
    data: tuple[Tensor, Tensor], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.program.classifiers.ridge.CHUNK", chunk)
    features, classes = data
    sums = Sums.of(features, classes, CLASSES)
    torch.testing.assert_close(sums.solve(WEIGHT).T, joint(features, classes), rtol=1e-9, atol=0)


def test_a_class_in_two_domains_is_one_class_with_equal_rows(data: tuple[Tensor, Tensor]) -> None:
    features, classes = data
    classifier, half = Fixed(D, "plain"), COUNT // 2
    names = tuple(f"class {c}" for c in range(CLASSES))
    state = fit(classifier, features[:half], classes[:half], names, CLASSES).state
    part = fit(classifier, features[half:], classes[half:], names * 2, CLASSES, state).part
    want = joint(features, classes)
    torch.testing.assert_close(head_of(part), torch.cat([want, want]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("images", [8, 60])  # fewer than features, and more
def test_predictions_by_eigenvalues(data: tuple[Tensor, Tensor], images: int) -> None:
    features, classes = (each[:images] for each in data)
    h, y = features.double(), one_hot(classes, CLASSES)
    weights = (1e-4, 1.0, 1e4)
    for weight, got in zip(weights, predictions(h, y, h, weights), strict=True):
        inverse = torch.linalg.inv(h.T @ h + weight * torch.eye(D).double())
        torch.testing.assert_close(got, h @ inverse @ h.T @ y, rtol=1e-6, atol=1e-8)


def test_a_held_out_fold_is_as_if_it_had_not_been_there(data: tuple[Tensor, Tensor]) -> None:
    features, classes = data
    old, new = slice(0, 30), slice(30, None)
    former = Sums.of(features[old], classes[old], CLASSES)
    total = former.plus(Sums.of(features[new], classes[new], CLASSES))
    h, y = features[new].double(), one_hot(classes[new], CLASSES)
    folds = [torch.arange(len(h))[fold::4] for fold in range(4)]
    weights = (1e-2, 1.0, 1e5)
    for weight, found in zip(weights, held_out_scores(total, h, y, folds, weights), strict=True):
        for fold, got in zip(folds, found, strict=True):
            rest = [i for i in range(len(h)) if i not in set(fold.tolist())]
            seen = former.plus(Sums.of(h[rest], classes[new][rest], CLASSES))
            torch.testing.assert_close(got, h[fold] @ seen.solve(weight), rtol=1e-6, atol=1e-8)


def test_a_weight_that_is_lost_in_rounding_is_raised() -> None:
    sums = Sums(torch.full((3, 3), 1e9).double(), torch.ones(3, 2).double())
    for weight in (0.0, 1e-8):
        assert sums.solve(weight).isfinite().all()


def test_a_balanced_head_has_the_same_bits_and_survives_float16() -> None:
    generator = torch.Generator().manual_seed(0)
    tiny = torch.randn(4, 200, generator=generator) * torch.tensor([1e-9, 1e-6, 1.0, 1e6])[:, None]
    head, scale = balanced(tiny)
    assert torch.equal(head * scale[:, None], tiny)
    assert 0.5 <= head.abs().amax(dim=1).min() <= head.abs().amax(dim=1).max() < 1
    error = (head.half().float() - head).norm(dim=1) / head.norm(dim=1)
    assert error.max() < 2**-11
    lost = (tiny.half().float() - tiny).norm(dim=1) / tiny.norm(dim=1)
    assert lost[0] == 1, "without the scales the first row would be zeros"
    head, scale = balanced(torch.zeros(2, 3))
    assert (head.tolist(), scale.tolist()) == ([[0.0] * 3] * 2, [1.0, 1.0])


# -- RanPAC


def test_random_features_by_hand() -> None:
    classifier = RandomFeatures(5, "plain", D, 3)
    projection = classifier.declare()["projection"].generated.make((D, 5))  # type: ignore[union-attr]
    feature = torch.randn(4, D)
    features = Features(feature, torch.zeros_like(feature))
    encoded = Encoded(features, Match(torch.zeros(4, 1).long(), torch.ones(4, 1)), None)
    learned = {
        "projection": projection, "head_weight": torch.randn(3, 5), "head_scale": torch.rand(3),
    }  # fmt: skip
    h = np.maximum(feature.numpy() @ projection.numpy(), 0)
    want = h @ learned["head_weight"].numpy().T * learned["head_scale"].numpy()
    np.testing.assert_allclose(classifier.scores(encoded, learned).numpy(), want, rtol=1e-4)


def test_ranpac_chooses_its_weight_on_a_fifth_of_the_task(data: tuple[Tensor, Tensor]) -> None:
    _, classes = data
    classifier = RandomFeatures(D, "plain", D, 0)
    seen: set[float] = set()
    for noise in (0.0, 300.0):
        rows = 30 * one_hot(classes, D).float()
        rows = rows + noise * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        total = Sums.of(rows, classes, CLASSES)
        generator = torch.Generator().manual_seed(1)
        weight = classifier.choose(rows, classes, total, generator)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
        rest, fifth = order[:72], order[72:]
        errors = {
            each: (
                rows[fifth].double() @ joint(rows[rest], classes[rest], each).T
                - one_hot(classes[fifth], CLASSES)
            )
            .square()
            .mean()
            for each in WEIGHTS
        }
        assert errors[weight] <= min(errors.values()) * (1 + 1e-6)
        seen.add(weight)
    assert len(seen) == 2, "noise asks for another weight"


def test_one_image_leaves_nothing_to_choose_by() -> None:
    classifier = RandomFeatures(4, "plain", 4, 0)
    total = Sums.of(torch.ones(1, 4), torch.zeros(1).long(), 1)
    generator = torch.Generator()
    assert classifier.choose(torch.ones(1, 4), torch.zeros(1).long(), total, generator) == 1.0


def test_the_projection_is_in_no_part_and_of_the_seed(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("ranpac", make_stream())
    learn_stream(learner, make_stream())
    assert all("projection" not in part for part in learner.run.parts())
    projection = learner.learned()["projection"]
    assert projection.shape == (192, 64)
    other = make_learner("ranpac", out="other", config={"seed": 1}).learned()["projection"]
    assert not torch.equal(other, projection)


# -- LayUP


def test_layup_takes_the_largest_of_the_weights_that_are_best_on_unseen_folds(
    data: tuple[Tensor, Tensor],
) -> None:
    noise, classes = data
    features = 0.02 * noise + 1.5 * one_hot(classes, D).float()
    features[:, -1] += 20  # what all images share: a large weight cannot take it off
    former = Sums.of(features[:30], classes[:30], CLASSES)
    new, own = features[30:], classes[30:]
    total = former.plus(Sums.of(new, own, CLASSES))
    right = dict.fromkeys(LAYUP_WEIGHTS, 0)
    for fold in range(4):  # ten images of each class, in turn
        held = torch.arange(60) // CLASSES % 4 == fold
        seen = former.plus(Sums.of(new[~held], own[~held], CLASSES))
        for each in right:
            scores = new[held].double() @ seen.solve(each)
            right[each] += int((scores.argmax(dim=1) == own[held]).sum())
    best = max(right.values())
    assert min(right.values()) < best
    want = max(each for each, count in right.items() if count == best)
    assert Taps(D, "plain").choose(new, own, total, torch.Generator()) == want


def test_layup_reads_as_many_blocks_as_there_are(tiny_backbone: Backbone) -> None:
    spec = BackboneSpec.of(tiny_backbone)
    both = build_method("layup", spec).program
    assert both.taps == 2
    one = build_method("layup", spec, {"taps": 1}).program
    assert one.taps == 1
    assert one.declare()["head_weight"].sizes == {"m": 192}
    assert one.interface != both.interface


def test_taps_are_cls_behind_each_block(tiny_backbone: Backbone) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: seen.append(out[:, 0]))
        for block in tiny_backbone.model.blocks  # type: ignore[union-attr]
    ]
    with torch.no_grad():
        taps = tiny_backbone.model(pixels, taps=2).taps
        last = tiny_backbone.model(pixels, taps=1).taps
        assert tiny_backbone.model(pixels).taps is None
    for hook in hooks:
        hook.remove()
    assert taps is not None
    assert last is not None
    assert torch.equal(taps, torch.stack(seen[:2], dim=1))
    assert torch.equal(last, taps[:, 1:])
    with pytest.raises(Exception, match=r"taps must be in \[0, 2\].*got 3. Use a deeper backbone"):
        tiny_backbone.model(pixels, taps=3)


# -- both


@pytest.mark.parametrize("name", ["ranpac", "layup"])
def test_without_a_first_session_nothing_is_trained(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(train=8)
    learner = make_learner(name, stream, config={"first_session": "none"})
    assert learner.method.program.passes == ("plain",)
    assert not learner.method.program.slots()
    summary = learn_stream(learner, stream)
    assert summary.a_last > 0.5
    assert learner.run.part(0).keys() == {"head_weight", "head_scale"}
    with_session = make_learner(name, out="other").program
    assert with_session.interface != learner.program.interface
    # The head is that of all images at once, from the features that the learner reads.
    state = learner.run.state()
    views = [learner.encoder.plain(learner.load(task.train, "").images) for task in stream.tasks]
    features = torch.cat([
        learner.method.program.classifier.feature(Encoded(view, None, None))  # type: ignore[arg-type]
        for view in views
    ])
    h = learner.method.program.classifier.expand(features, learner.learned()).double()  # type: ignore[attr-defined]
    classes = torch.tensor([label for task in stream.tasks for label in task.train.labels])
    torch.testing.assert_close(state["gram"], h.T @ h, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state["moments"], h.T @ one_hot(classes, 6), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ranpac", {"size": 0}),
        ("ranpac", {"rank": 0}),
        ("ranpac", {"seed": -1}),
        ("layup", {"taps": 0}),
        ("layup", {"rank": 0}),
    ],
)
def test_sizes_that_cannot_be(tiny_backbone: Backbone, name: str, config: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=r"must be at least [01], got .* Raise it"):
        build_method(name, BackboneSpec.of(tiny_backbone), config)


def test_a_backbone_without_blocks_has_no_taps() -> None:
    spec = BackboneSpec(8, 0, frozenset(), "ab" * 32)
    with pytest.raises(MethodError, match=r"last 1 blocks .* got one with 0. Use a ViT"):
        build_method("layup", spec, {"first_session": "none"})
    assert build_method("ranpac", spec, {"first_session": "none"}).program.passes == ("plain",)

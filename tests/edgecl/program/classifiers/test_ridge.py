"""Ridge regression in closed form, against plain linear algebra."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.ridge import (
    FREE,
    ChoosingRidge,
    Rows,
    Sums,
    balanced,
    errors_from_sums,
    generalised,
    heads_without,
    held_out_scores,
    one_hot,
    predictions,
)
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors

D, COUNT, CLASSES = 12, 90, 6
WEIGHT = 0.3
PART = slice(20)  # images that are held out


class Fixed(ChoosingRidge):
    """A ridge head whose weight is given."""

    def choose(
        self, features: Tensor, classes: Tensor, total: Sums, generator: torch.Generator
    ) -> float:
        return WEIGHT

    def deal(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        return torch.arange(len(classes)) % 3

    def choose_by_parts(self, rows: Rows, part: Tensor, sums: Sequence[Sums], total: Sums) -> float:
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
    classifier: ChoosingRidge,
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
    folds = [torch.arange(len(h))[fold::6] for fold in range(6)]
    weights = (1e-2, 1.0, 1e5)
    for weight, found in zip(weights, held_out_scores(total, h, y, folds, weights), strict=True):
        for fold, got in zip(folds, found, strict=True):
            rest = [i for i in range(len(h)) if i not in set(fold.tolist())]
            seen = former.plus(Sums.of(h[rest], classes[new][rest], CLASSES))
            torch.testing.assert_close(got, h[fold] @ seen.solve(weight), rtol=1e-6, atol=1e-8)


def rows_of(features: Tensor, classes: Tensor) -> Rows:
    return Rows(features, classes, CLASSES, lambda some: 2 * some)


def test_a_part_that_is_taken_out_of_the_sums_is_as_if_it_had_not_been_there(
    data: tuple[Tensor, Tensor],
) -> None:
    features, classes = data
    total, held = (Sums.of(features[some], classes[some], CLASSES) for some in (slice(90), PART))
    rest = Sums.of(features[20:], classes[20:], CLASSES)
    weights = (1e-2, 1.0, 1e5)
    for weight, head in zip(weights, heads_without(total, held, weights), strict=True):
        torch.testing.assert_close(head, rest.solve(weight), rtol=1e-6, atol=1e-9)


def test_squared_errors_come_from_sums(data: tuple[Tensor, Tensor]) -> None:
    features, classes = data
    rest, held = (Sums.of(features[some], classes[some], CLASSES) for some in (slice(20, 90), PART))
    weights = (1e-2, 1.0, 1e5)
    wanted = one_hot(classes[PART], CLASSES)
    for weight, got in zip(weights, errors_from_sums(rest, held, weights), strict=True):
        misses = features[PART].double() @ rest.solve(weight) - wanted
        torch.testing.assert_close(got + 20, misses.square().sum(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("images", [8, 90])  # fewer than features, and more
def test_generalised_cross_validation_by_its_definition(
    data: tuple[Tensor, Tensor], images: int
) -> None:
    features, classes = (each[:images] for each in data)
    h, y = features.double(), one_hot(classes, CLASSES)
    weights = tuple(10.0**power for power in range(-8, 9))
    found = {}
    for weight in weights:
        hat = h @ torch.linalg.inv(h.T @ h + weight * torch.eye(D).double()) @ h.T
        free = images - hat.trace()
        if free > FREE * images:
            found[weight] = float((y - hat @ y).square().sum() / free.square())
    got = generalised(Sums.of(features, classes, CLASSES), images, weights)
    assert found[got] <= min(found.values()) * (1 + 1e-6)
    assert len(found) < len(weights) or images == 90


def test_the_sums_of_parts_in_one_pass(
    data: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.program.classifiers.ridge.CHUNK", 7)
    features, classes = data
    part = torch.arange(COUNT) // 31
    for place, got in enumerate(rows_of(features, classes).sums(part, D)):
        want = Sums.of(2 * features[part == place], classes[part == place], CLASSES)
        torch.testing.assert_close(got.gram, want.gram, rtol=1e-12, atol=0)
        assert torch.equal(got.moments, want.moments) or got.moments.allclose(want.moments)
    chosen = torch.tensor([5, 80, 2])
    ((some, own),) = rows_of(features, classes).blocks(chosen)
    assert torch.equal(some, 2 * features[chosen].double())
    assert torch.equal(own, classes[chosen])


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


def test_the_whole_spectrum_is_ridge_regression_without_a_weight(
    data: tuple[Tensor, Tensor],
) -> None:
    """With more features than images too, where only their span counts."""
    features, classes = data
    wide = torch.randn(D, 2 * COUNT, generator=torch.Generator().manual_seed(1))
    for rows in (features, (features @ wide).relu()):
        total = Sums.of(rows, classes, CLASSES)
        left, head = total.truncated(rows.shape[1])
        h, y = rows.double(), F.one_hot(classes).double()
        torch.testing.assert_close(left.gram, total.gram)
        torch.testing.assert_close(h @ head, h @ torch.linalg.pinv(h) @ y, rtol=0, atol=1e-6)
        torch.testing.assert_close(h @ head, h @ total.solve(1e-6), rtol=0, atol=1e-5)


def test_what_is_cut_is_cut(data: tuple[Tensor, Tensor]) -> None:
    features, classes = data
    total = Sums.of(features, classes, CLASSES)
    left, head = total.truncated(3)
    _, values, right = torch.linalg.svd(features.double(), full_matrices=False)
    span = right[:3].T
    torch.testing.assert_close(left.gram, (span * values[:3].square()) @ span.T)
    torch.testing.assert_close(head, span @ span.T @ head)
    torch.testing.assert_close(head, span @ ((span.T @ total.moments) / values[:3, None].square()))
    again, same = left.truncated(3)
    torch.testing.assert_close(again.gram, left.gram)
    torch.testing.assert_close(same, head)

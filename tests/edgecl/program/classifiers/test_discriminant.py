"""Linear discriminants from sums, against plain linear algebra and scikit-learn."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sklearn.covariance import OAS
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Features
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.discriminant import (
    Discriminant,
    NamedDiscriminant,
    Shrinkage,
    discriminants,
    shrunk,
    with_one,
)
from edgecl.program.classifiers.ridge import Sums
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match

D, COUNT, CLASSES = 8, 90, 6
BOTH = pytest.mark.parametrize("how", ["oas", "trace"])


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(COUNT) % CLASSES
    away = 2 * torch.randn(CLASSES, D, generator=generator)
    skew = torch.randn(D, D, generator=generator)
    return away[classes] + torch.randn(COUNT, D, generator=generator) @ skew, classes


def joint(features: Tensor, classes: Tensor, how: Shrinkage) -> tuple[Tensor, Tensor]:
    """Return the textbook's rows: S^-1 m_c and -m_c S^-1 m_c / 2, from all images at once."""
    rows = features.double()
    count = int(classes.max()) + 1
    means = torch.stack([rows[classes == each].mean(dim=0) for each in range(count)])
    away = rows - means[classes]
    if how == "oas":
        covariance = torch.from_numpy(OAS(assume_centered=True).fit(away.numpy()).covariance_)
    else:
        covariance = away.T @ away / len(rows)
        covariance += covariance.trace() / (len(rows) - 1) * torch.eye(rows.shape[1]).double()
    weight = means @ torch.linalg.inv(covariance)
    return weight, -(weight * means).sum(dim=1) / 2


def contrasts(weight: Tensor, bias: Tensor) -> Tensor:
    """Return what decides: rows less the first one, in one scale."""
    rows = torch.cat([weight, bias[:, None]], dim=1)
    differences = rows[1:] - rows[:1]
    return differences / differences.norm()


def task_of(
    features: Tensor, labels: Tensor, rows: Sequence[str], classes: int, **given: Any
) -> TaskContext:
    context: dict[str, Any] = {"state": {}, "learned": {}, "index": 0} | given
    return TaskContext(
        classes=classes, class_rows=tuple(rows), labels=labels, plain=None,
        features={"feature": features}, generator=torch.Generator(), **context,
    )  # fmt: skip


@BOTH
def test_rows_decide_as_the_textbook_does(data: tuple[Tensor, Tensor], how: Shrinkage) -> None:
    features, classes = data
    total = Sums.of(with_one(features.double()), classes, CLASSES)
    rows = discriminants(total, torch.arange(CLASSES), how)
    want = joint(features.double(), classes, how)
    torch.testing.assert_close(
        contrasts(rows.weight, rows.bias), contrasts(*want), rtol=0, atol=1e-6
    )
    means = total.moments[:-1] / total.moments[-1]
    own = (rows.weight @ means).diagonal() + rows.bias
    assert own.mean() == pytest.approx(1)
    nowhere = rows.weight @ means.mean(dim=1) + rows.bias
    assert (nowhere < 0).all(), "at the centre no class is likelier than one that is not known"


@BOTH
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_any_order_of_tasks_and_images_is_the_joint_solution(
    data: tuple[Tensor, Tensor], order: tuple[int, ...], how: Shrinkage
) -> None:
    features, classes = data
    fitted, names = FitResult(), []
    for task in order:
        own = torch.nonzero(classes // 2 == task).flatten()
        own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(task))]
        names += [f"class {each}" for each in (2 * task, 2 * task + 1)]
        context = task_of(features[own], classes[own] % 2, names, 2, state=fitted.state)
        fitted = Discriminant(D, how).fit(context)
    total = Sums(fitted.state["gram"], fitted.state["moments"])
    place = torch.tensor([names.index(f"class {each}") for each in range(CLASSES)])
    found = discriminants(total, torch.arange(CLASSES), how)
    expanded = Discriminant(D).expand(features, {})
    at_once = Sums.of(with_one(expanded), classes, CLASSES)
    want = discriminants(at_once, torch.arange(CLASSES), how)
    torch.testing.assert_close(found.weight[place], want.weight, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.bias[place], want.bias, rtol=1e-6, atol=1e-6)
    shipped = fitted.part["head_weight"] * fitted.part["head_scale"][:, None]
    torch.testing.assert_close(shipped, found.weight.float())
    assert not any(tensor.requires_grad for tensor in fitted.part.values())


@BOTH
def test_a_class_that_is_subtracted_was_never_seen(
    data: tuple[Tensor, Tensor], how: Shrinkage
) -> None:
    features, classes = data[0].double(), data[1]
    gone = classes == CLASSES - 1
    all_of_them = Sums.of(with_one(features), classes, CLASSES)
    left = all_of_them.minus(Sums.of(with_one(features[gone]), classes[gone], CLASSES))
    left = Sums(left.gram, left.moments[:, :-1])
    found = discriminants(left, torch.arange(CLASSES - 1), how)
    never = Sums.of(with_one(features[~gone]), classes[~gone], CLASSES - 1)
    want = discriminants(never, torch.arange(CLASSES - 1), how)
    torch.testing.assert_close(found.weight, want.weight, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.bias, want.bias, rtol=1e-6, atol=1e-6)


def test_a_class_of_few_images_is_as_likely_as_any(data: tuple[Tensor, Tensor]) -> None:
    """Twice the images of all other classes: no score moves for the number alone."""
    features, classes = data
    rare = classes == 0
    twice = torch.cat([features, features[~rare]]), torch.cat([classes, classes[~rare]])
    rows = [
        discriminants(Sums.of(with_one(f.double()), c, CLASSES), torch.arange(CLASSES), "oas")
        for f, c in (data, twice)
    ]
    means = torch.stack([features[classes == each].mean(dim=0) for each in range(CLASSES)])
    for each in rows:
        scores = means.double() @ each.weight.T + each.bias
        assert torch.equal(scores.argmax(dim=1), torch.arange(CLASSES))


def test_more_images_move_a_class_and_another_domain_has_its_own_row(
    data: tuple[Tensor, Tensor],
) -> None:
    features, labels = data[0], data[1] % 2
    for moves in (True, False):
        fitted, names = FitResult(), []
        for half in (slice(0, 40), slice(40, None)):
            names += ["cat", "ox"]
            context = task_of(
                features[half], labels[half], names, 2, state=fitted.state, moves=moves
            )
            fitted = Discriminant(D).fit(context)
        head = fitted.part["head_weight"] * fitted.part["head_scale"][:, None]
        assert torch.equal(head[:2], head[2:]) == moves
        if moves:
            total = Sums.of(with_one(Discriminant(D).expand(features, {})), labels, 2)
            want = discriminants(total, torch.arange(2), "oas").weight
            torch.testing.assert_close(head[:2], want.float())


def test_one_image_of_each_class_is_its_nearest(data: tuple[Tensor, Tensor]) -> None:
    features = data[0][:3]
    fitted = Discriminant(D).fit(task_of(features, torch.arange(3), "abc", 3))
    head = fitted.part["head_weight"] * fitted.part["head_scale"][:, None]
    scores = Discriminant(D).expand(data[0], {}) @ head.T + fitted.part["head_bias"]
    nearest = torch.cdist(data[0], features).argmin(dim=1)
    assert torch.equal(scores.argmax(dim=1), nearest)
    alone = Discriminant(D).fit(task_of(features[:1], torch.zeros(1).long(), "a", 1)).part
    assert not alone["head_weight"].any()
    assert not alone["head_bias"].any()


def test_shrinkage_of_few_images_is_all_of_it() -> None:
    covariance = torch.diag(torch.tensor([4.0, 2.0, 0.0])).double()
    torch.testing.assert_close(shrunk(covariance, 1, "oas"), 2 * torch.eye(3).double())
    torch.testing.assert_close(shrunk(covariance, 4, "trace"), covariance + 2 * torch.eye(3))
    flat = 2 * torch.eye(3).double()
    torch.testing.assert_close(shrunk(flat, 100, "oas"), flat)


def test_fourier_features_are_those_of_the_kernel() -> None:
    classifier = Discriminant(D, rff=8000, gamma=0.7)
    made = classifier.declare()["projection"]
    assert made.sizes == {"d": D, "p": 4000}
    assert made.generated is not None
    projection = made.generated.make((D, 4000))
    points = F.normalize(torch.randn(5, D, generator=torch.Generator().manual_seed(1)), dim=-1)
    features = classifier.expand(points, {"projection": projection})
    kernel = (-0.7 * torch.cdist(points, points).square()).exp()
    torch.testing.assert_close(features @ features.T / 4000, kernel, rtol=0, atol=0.04)
    assert "projection" not in Discriminant(D).declare()


def test_names_and_discriminants_by_hand(data: tuple[Tensor, Tensor]) -> None:
    """The order is that of 0.9 cosine + 0.1 log density ratio; a class to come has the first."""
    features, classes = F.normalize(data[0], dim=-1), data[1]
    head = NamedDiscriminant(D, "trace")
    part = head.fit(task_of(features, classes, "abcdef", CLASSES)).part
    texts = F.normalize(torch.randn(CLASSES + 2, D, generator=torch.Generator().manual_seed(2)))
    learned: Tensors = {"texts": texts[:CLASSES], **part}
    for name, rows in head.unlearned(texts[CLASSES:]).items():
        learned[name] = torch.cat([learned[name], rows])
    plain = Features(data[0], torch.zeros(1))
    none = Match(torch.zeros(COUNT, 1).long(), torch.ones(COUNT, 1))
    scores = head.scores(Encoded(plain, none, None), learned).double()

    means = torch.stack([features[classes == each].mean(dim=0) for each in range(CLASSES)])
    away = (features - means[classes]).double()
    covariance = away.T @ away / COUNT
    covariance += covariance.trace() / (COUNT - 1) * torch.eye(D).double()
    centres = torch.cat([means, means.mean(dim=0, keepdim=True).expand(2, D)]).double()
    gaps = features.double()[:, None] - centres
    densities = -torch.einsum("bcd,de,bce->bc", gaps, torch.linalg.inv(covariance), gaps) / 2
    want = 0.9 * features.double() @ texts.double().T + 0.1 * (densities - densities[:, -1:])
    scale = want.abs().max() / scores.abs().max()
    torch.testing.assert_close(scale * scores, want, rtol=1e-4, atol=1e-4)

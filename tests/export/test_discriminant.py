"""Discriminants that a device solves again are those of the workstation for all images together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgecl.program.classifiers.discriminant import (
    Discriminant,
    covariance,
    discriminants,
    shrinking,
    with_one,
)
from edgecl.program.classifiers.ridge import Sums
from edgecl_deploy import errors
from edgecl_deploy.enrol.discriminant import COUNTS, FACTOR, MEANS, ROWS, Known, solved
from edgecl_deploy.enrol.ridge import Solved, expanded
from edgecl_deploy.format import Enrol, Factor, packed, packed_size

WIDTH = 12
NAMES = ("red", "green", "blue", "red")  # the last row is red of another domain
COUNT = (9, 7, 8, 6)


class Case:
    """A workstation's images, and the object that a release would bring."""

    def __init__(self, how: str, rff: int = 0) -> None:
        rng = np.random.default_rng(3)
        self.classifier = Discriminant(WIDTH, shrinkage=how, rff=rff)  # type: ignore[arg-type]
        self.learned = {"projection": rng.normal(size=(WIDTH, rff // 2)).astype(np.float32)}
        self.centres = rng.normal(size=(6, WIDTH))
        self.features = [self.draw(rng, at, count) for at, count in enumerate(COUNT)]
        self.new = self.draw(rng, 4, 5)
        self.more = self.draw(rng, 1, 3)
        enrol = self.classifier.enrol()
        assert enrol is not None
        self.enrol: Enrol = enrol
        sums, size = self.sums(self.features), self.classifier.size
        within, means = covariance(sums, torch.arange(len(NAMES)))
        self.declared = Factor(
            shrinking(within.numpy(), sum(COUNT), how)[1], sum(COUNT), size, "a" * 64, 1, 0.0
        )
        shifted = within + self.declared.weight * torch.eye(size, dtype=torch.float64)
        self.tensors = {
            FACTOR: packed(torch.linalg.cholesky(shifted).numpy()).astype(np.float32),
            MEANS: means.float().numpy(),
            COUNTS: np.array(COUNT, np.int32),
            ROWS: np.arange(len(NAMES), dtype=np.int32),
        }

    def draw(self, rng: np.random.Generator, at: int, count: int) -> np.ndarray:
        found = self.centres[at] + 0.7 * rng.normal(size=(count, WIDTH))
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit.astype(np.float32)

    def sums(self, features: list[np.ndarray]) -> Sums:
        learned = {name: torch.from_numpy(each) for name, each in self.learned.items()}
        rows = torch.from_numpy(np.concatenate(features))
        owner = torch.tensor([at for at, each in enumerate(features) for _ in each])
        seen = self.classifier.expand(rows, learned)
        return Sums.of(with_one(seen), owner, len(features))

    def wanted(self, features: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        own = discriminants(
            self.sums(features), torch.arange(len(features)), self.classifier.shrinkage
        )
        return own.weight.numpy(), own.bias.numpy()

    def known(self) -> Known:
        return Known.read(self.tensors, self.declared, len(NAMES))

    def solve(self, **classes: np.ndarray) -> tuple[Solved, dict[str, np.ndarray]]:
        live = (True,) * len(NAMES)
        return solved(self.enrol, self.learned, NAMES, live, self.known(), classes)


def scores(tensors: dict[str, np.ndarray], seen: np.ndarray) -> np.ndarray:
    head = tensors["head_weight"] * tensors["head_scale"][:, None]
    found: np.ndarray = seen @ head.T.astype(np.float64) + tensors["head_bias"]
    return found


@pytest.mark.parametrize(("how", "rff"), [("oas", 0), ("trace", 0), ("oas", 16), ("trace", 16)])
def test_the_head_is_that_of_all_images(how: str, rff: int) -> None:
    """A new class, and more images of one of the release, in float32."""
    case = Case(how, rff)
    found, tensors = case.solve(grey=case.new, green=case.more)
    features = [*case.features, case.new]
    features[1] = np.concatenate([features[1], case.more])
    weight, bias = case.wanted(features)
    seen = expanded(case.enrol, case.learned, np.concatenate(features)).astype(np.float64)
    wanted = seen @ weight.T + bias
    np.testing.assert_allclose(scores(tensors, seen), wanted, rtol=0, atol=1e-4)
    assert found.names == ("red", "green", "blue", "grey")
    assert np.abs(tensors["head_weight"]).max() < 1
    assert {math.frexp(each)[0] for each in tensors["head_scale"].tolist()} == {0.5}
    before, _ = case.wanted(case.features)
    assert np.abs(weight[: len(before)] - before).max() > 1e-2, "all rows move"


def test_nothing_enrolled_is_the_release() -> None:
    case = Case("oas")
    _, tensors = case.solve()
    weight, bias = case.wanted(case.features)
    np.testing.assert_allclose(tensors["head_bias"], bias, atol=1e-5)
    head = tensors["head_weight"] * tensors["head_scale"][:, None]
    np.testing.assert_allclose(head, weight, rtol=0, atol=1e-5 * np.abs(weight).max())


def test_an_image_is_left_out_as_if_it_had_not_been_shown() -> None:
    """But for the shrinkage: here it is fixed, so that the law is exact."""
    case = Case("trace")
    found, _ = case.solve(grey=case.new)
    known, count = case.known(), sum(COUNT) + len(case.new)
    for left in range(len(case.new)):
        rest = [*case.features, np.delete(case.new, left, axis=0)]
        seen = [expanded(case.enrol, {}, each).astype(np.float64) for each in rest]
        means = np.stack([each.mean(axis=0) for each in seen])
        scatter = sum(
            (each - mean).T @ (each - mean) for each, mean in zip(seen, means, strict=True)
        )
        every = [expanded(case.enrol, {}, e).astype(np.float64) for e in (*case.features, case.new)]
        whole = sum((e - e.mean(axis=0)).T @ (e - e.mean(axis=0)) for e in every) / count
        inverse = np.linalg.inv(scatter / count + np.trace(whole) / (count - 1) * np.eye(WIDTH))
        image = expanded(case.enrol, {}, case.new[left : left + 1])[0].astype(np.float64)
        centre = means.mean(axis=0)
        plain = [(m - centre) @ inverse @ (image - (m + centre) / 2) for m in means]
        all_means = np.stack([e.mean(axis=0) for e in every])
        away = all_means - all_means.mean(axis=0)
        full = np.linalg.inv(whole + np.trace(whole) / (count - 1) * np.eye(WIDTH))
        usual = np.einsum("ki,ij,kj->k", away, full, away).mean() / 2
        red = max(plain[0], plain[3])
        wanted = np.array([red, plain[1], plain[2], plain[4]]) / usual
        np.testing.assert_allclose(found.left_out[left], wanted, atol=2e-5)
    assert known.counts.sum() == sum(COUNT)


def test_the_order_of_images_does_not_show() -> None:
    case = Case("oas")
    _, one = case.solve(grey=case.new)
    _, other = case.solve(grey=case.new[::-1])
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=2e-6)


def test_rows_that_no_longer_count_take_no_images() -> None:
    case = Case("oas")
    live = (False, True, True, True)
    found, tensors = solved(
        case.enrol, case.learned, NAMES, live, case.known(), {"red": case.draw(
            np.random.default_rng(1), 0, 4)}
    )  # fmt: skip
    assert len(tensors["head_bias"]) == len(NAMES)
    assert found.left_out.shape == (4, 3)
    live_only = case.solve(red=case.new)[0].left_out
    assert np.isfinite(live_only).all()


def test_what_no_images_have_is_refused() -> None:
    case = Case("oas")
    for name in case.tensors:
        missing = {key: each for key, each in case.tensors.items() if key != name}
        with pytest.raises(errors.TensorShapeError, match="Make the release again"):
            Known.read(missing, case.declared, len(NAMES))
        short = {**case.tensors, name: case.tensors[name][:-1]}
        with pytest.raises((errors.TensorShapeError, errors.NonFiniteError)):
            Known.read(short, case.declared, len(NAMES))
    nan = np.full(packed_size(WIDTH), np.nan, np.float32)
    for wrong in (
        {FACTOR: nan},
        {COUNTS: np.array([9, 7, 8, 0], np.int32)},
        {COUNTS: np.array([9, 7, 8, 7], np.int32)},
        {ROWS: np.array([0, 1, 2, 4], np.int32)},
        {ROWS: np.array([0, 1, 2, -1], np.int32)},
    ):
        with pytest.raises(errors.NonFiniteError, match="images of its classes"):
            Known.read({**case.tensors, **wrong}, case.declared, len(NAMES))
    zero = {**case.tensors, FACTOR: 0 * case.tensors[FACTOR]}
    known = Known.read(zero, replace(case.declared, weight=1.0), len(NAMES))
    with pytest.raises(errors.NonFiniteError, match="positive definite"):
        solved(case.enrol, {}, NAMES, (True,) * 4, known, {"grey": case.new})

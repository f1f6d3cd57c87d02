"""Texts that are embedded on a grid of weights, and between them."""

import math

import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Features
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.grid_texts import POINTS, GridTexts, between, grid
from edgecl.program.matchers import Match


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def encoded(feature: Tensor, weight: Tensor) -> Encoded:
    match = Match(torch.zeros(len(weight), 1, dtype=torch.int64), weight[:, None])
    return Encoded(None, match, Features(feature, feature))


def test_an_image_is_held_against_texts_between_those_of_the_two_nearest_weights() -> None:
    texts = F.normalize(rows(3, POINTS, 8).float(), dim=-1)
    weight = torch.tensor([0.0, 0.25, 0.1, 0.6, 1.0])
    feature = 5 * rows(5, 8, seed=1).float()
    got = GridTexts(8, 2.0, on="injected").scores(encoded(feature, weight), {"texts": texts})
    for image, w in enumerate(weight.tolist()):
        low = min(int(4 * w), 3)
        share = 4 * w - low
        mixed = F.normalize((1 - share) * texts[:, low] + share * texts[:, low + 1], dim=-1)
        want = math.exp(2.0) * mixed @ F.normalize(feature[image], dim=-1)
        torch.testing.assert_close(got[image], want, rtol=1e-5, atol=1e-5)


def test_shares_sum_to_one_and_a_weight_of_the_grid_has_one_text() -> None:
    shares = between(torch.linspace(0, 1, 41)[:, None])
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(41))
    assert torch.equal(between(torch.tensor(grid())[:, None]), torch.eye(POINTS))

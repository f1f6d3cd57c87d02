"""The canary: it dies when the hook that checks shapes in the tests is off."""

from typing import Any

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from tests.shapes import checked_once
from torch import Tensor

from edgecl.backbones import Backbone
from edgecl.backbones.sites import Prefix
from edgecl.program.matchers import TopK
from edgecl.program.statistics import class_means


def test_a_wrong_number_of_axes_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        TopK(4, pool=3, k=1)(torch.zeros(4), {"prompt_keys": torch.zeros(3, 4)})


def test_a_wrong_kind_of_number_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        class_means(torch.zeros(3, 2), torch.zeros(3), 2)


def test_two_sizes_of_one_axis_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        class_means(torch.zeros(3, 2), torch.zeros(4).long(), 2)


def test_a_dataclass_with_wrong_shapes_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Prefix(torch.zeros(2, 4), torch.zeros(3, 4), 0)


def test_the_backbone_refuses_pixels_without_a_batch(tiny_backbone: Backbone) -> None:
    with pytest.raises(TypeCheckError):
        tiny_backbone.model(torch.zeros(3, 32, 32))


def test_what_has_passed_lets_nothing_else_pass() -> None:
    @checked_once
    def cut(
        x: Float[Tensor, "b n"], pair: tuple[Float[Tensor, " b"], ...], rows: int | None = None
    ) -> Float[Tensor, "b m"]:
        return instead[-1] if instead else x[:rows]

    instead: list[Any] = []
    x, y = torch.zeros(3, 4), (torch.zeros(3),)
    for _ in range(2):
        assert cut(x, y) is not None
        cut(x, y, rows=3)
    with pytest.raises(TypeCheckError):
        cut(x, y, 2)  # of a result whose arguments have passed, but for a number
    wrong = [
        (x.double().long(), y),
        (x[0], y),
        (x[:2], y),
        (x, (torch.zeros(2),)),
        (x, (torch.zeros(3, 1),)),  # beartype looks at one of many, at random
        (x, [torch.zeros(3)]),
        (x.numpy(), y),
        (x, y, "3"),
        (x, y, 3.0),
    ]
    for each in wrong:
        for _ in range(2):
            with pytest.raises(TypeCheckError):
                cut(*each)
    for each in (y[0], x[:2], x.long(), x.numpy(), (x,)):
        instead.append(each)
        for _ in range(2):
            with pytest.raises(TypeCheckError):
                cut(x, y)
    instead.append(torch.zeros(3, 9))
    for _ in range(2):
        assert cut(x, y) is instead[-1]


@pytest.mark.parametrize(
    "module", ["edgecl.learning.learner", "edgecl.learning.training", "edgecl.backbones.vit"]
)
def test_no_module_hides_its_annotations_from_the_hook(module: str) -> None:
    source = __import__("importlib").import_module(module)
    assert "annotations" not in vars(source), (
        "the future import of annotations switches the hook off"
    )

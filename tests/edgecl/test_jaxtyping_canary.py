"""The canary: it dies when the hook that checks shapes in the tests is off."""

import pytest
import torch
from jaxtyping import TypeCheckError

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


@pytest.mark.parametrize(
    "module", ["edgecl.learning.learner", "edgecl.learning.training", "edgecl.backbones.vit"]
)
def test_no_module_hides_its_annotations_from_the_hook(module: str) -> None:
    source = __import__("importlib").import_module(module)
    assert "annotations" not in vars(source), (
        "the future import of annotations switches the hook off"
    )

"""Values that are added to an image: what each form ships, and what it makes of it."""

from math import prod

import pytest
import torch
from tests.edgecl.support import images, noise, same, started, through

from edgecl.backbones import Backbone
from edgecl.backbones.sites import ScaleShift
from edgecl.program.injectors import PixelPrompts
from edgecl.program.injectors.pixels import Form
from edgecl.program.matchers import Match

SIDE, PATCH = 32, 16


@pytest.mark.parametrize(("form", "width"), [("full", 0), ("frame", 4), ("tile", PATCH)])
def test_it_starts_as_the_plain_backbone(tiny_backbone: Backbone, form: Form, width: int) -> None:
    injector = PixelPrompts(SIDE, form, width)
    with torch.no_grad():
        plain = tiny_backbone.model(images())
    same(through(tiny_backbone, injector, started(injector), images()), plain, atol=0)
    moved = through(tiny_backbone, injector, noise(injector), images())
    assert (moved.cls - plain.cls).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("form", "width", "numbers"), [("full", 0, 150_528), ("frame", 30, 69_840), ("tile", 14, 588)]
)
def test_what_a_form_ships_at_224_pixels(form: Form, width: int, numbers: int) -> None:
    declared = PixelPrompts(224, form, width).declare()
    assert sum(prod(item.shape(2)) for item in declared.values()) == numbers


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_frame_is_at_the_edge_alone(batch: tuple[int, ...]) -> None:
    injector = PixelPrompts(7, "frame", 2)
    rows = torch.randn(*batch, 2, 3, 2, 7)
    columns = torch.randn(*batch, 2, 3, 3, 2)
    image = injector.image({"pixel_rows": rows, "pixel_columns": columns})
    assert image.shape == (*batch, 3, 7, 7)
    assert torch.equal(image[..., :2, :], rows[..., 0, :, :, :])
    assert torch.equal(image[..., 5:, :], rows[..., 1, :, :, :])
    assert torch.equal(image[..., 2:5, :2], columns[..., 0, :, :, :])
    assert torch.equal(image[..., 2:5, 5:], columns[..., 1, :, :, :])
    assert image[..., 2:5, 2:5].abs().max() == 0


def test_a_tile_of_one_patch_is_a_bias_of_the_patch_embedding(tiny_backbone: Backbone) -> None:
    injector = PixelPrompts(SIDE, "tile", PATCH)
    learned = noise(injector)
    weight = tiny_backbone.model.patch_embed.proj.weight  # type: ignore[union-attr]
    shift = (weight * learned["pixel_tile"]).sum(dim=(1, 2, 3)).detach()
    bias = ScaleShift(torch.ones(192), shift, "patch")
    with torch.no_grad():
        want = tiny_backbone.model(images(), (bias,))
    same(through(tiny_backbone, injector, learned, images()), want, atol=1e-4)


@pytest.mark.parametrize("form", ["full", "frame", "tile"])
def test_each_image_gets_what_its_task_learned(form: Form) -> None:
    injector = PixelPrompts(8, form, 2, per_task=True)
    declared = injector.declare()
    assert not declared.keys() & injector.slots().keys(), "a graph has one name for each"
    torch.manual_seed(0)
    learned = {n: torch.randn(4, *item.shape(2)[1:]) for n, item in declared.items()}
    match = Match(torch.tensor([[3], [0], [3]]), torch.ones(3, 1))
    (item,) = injector.sites(injector.fill(match, learned))
    shared = PixelPrompts(8, form, 2)
    for row, task in enumerate((3, 0, 3)):
        own = {n.removeprefix("task_"): value[task] for n, value in learned.items()}
        assert torch.equal(item.value[row], shared.image(own))  # type: ignore[union-attr]

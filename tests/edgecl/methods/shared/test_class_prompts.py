"""Prompts of class names: the network by hand, and texts of one class alone."""

import dataclasses

import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.methods.shared.class_prompts import (
    Names,
    continued_prompts,
    embedded,
    generated,
    moments_of,
)
from edgecl.program.fitting import TaskContext

NAMES = ("red", "green", "dark blue")


def view(text: TextEncoder, index: int, features: Tensor, **given: object) -> TaskContext:
    """Return a task of two classes, half of the features each, behind `index` others like it."""
    rows = tuple(f"class {row}" for row in range(2 * index + 2))
    labels = torch.arange(2).repeat_interleave(len(features) // 2)
    task = TaskContext(
        index=index, classes=2, class_rows=rows, labels=labels, plain=None, features={},
        learned={}, state={}, generator=generator(index), text_encoder=text,
        encode=lambda _: {"feature": features},
    )  # fmt: skip
    return dataclasses.replace(task, **given)  # type: ignore[arg-type]


@pytest.fixture
def prompts(tiny_clip: Clip) -> dict[str, Tensor]:
    """Return prompts of three classes, as a training may leave them."""
    text = TextEncoder(tiny_clip)
    task = dataclasses.replace(view(text, 0, torch.zeros(4, 192)), classes=len(NAMES))
    made = continued_prompts(task, BackboneSpec.of(tiny_clip))
    return {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=generator())
        for name, tensor in made.items()
    }


def test_the_network_by_hand(prompts: dict[str, Tensor]) -> None:
    """Linear layers, batch norms without running statistics and SELU, as torch.nn has them."""
    plain = torch.randn(3, 192, generator=generator())
    x = plain
    for index in range(4):
        x = F.linear(x, prompts[f"prompt_weight_{index}"], prompts[f"prompt_bias_{index}"])
        if index < 3:
            scale, shift = prompts[f"prompt_scale_{index}"], prompts[f"prompt_shift_{index}"]
            x = F.selu(F.batch_norm(x, None, None, scale, shift, training=True))
    found, _ = generated(prompts, plain)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_the_plain_feature_is_raw_and_the_mean_over_the_templates(tiny_clip: Clip) -> None:
    text = TextEncoder(tiny_clip)
    names = Names.of(text, NAMES, "{}.", ("{}", "a {}"))
    with torch.no_grad():
        raw = [tiny_clip.text(tiny_clip.tokenizer([one])) for one in ("dark blue", "a dark blue")]
    torch.testing.assert_close(names.plain[2], torch.cat(raw).mean(dim=0))
    assert abs(float(names.plain.norm(dim=1).mean()) - 1) > 0.1
    assert torch.equal(names.tokens, tiny_clip.tokenizer([f"{name}." for name in NAMES]))


def test_a_frozen_text_is_a_function_of_its_class_alone(
    tiny_clip: Clip, prompts: dict[str, Tensor]
) -> None:
    """T7: a text on its own moments depends on the other classes, frozen it does not."""
    text = TextEncoder(tiny_clip)
    names = Names.of(text, NAMES, "{}.", ())
    frozen = moments_of(prompts, names.plain)
    with torch.no_grad():
        among = embedded(text, prompts, names, frozen)
        torch.testing.assert_close(among, embedded(text, prompts, names))
        torch.testing.assert_close(among.norm(dim=1), torch.ones(3))
        for row, name in enumerate(NAMES):
            own = {**prompts, "prompt_contexts": prompts["prompt_contexts"][row : row + 1]}
            single = Names.of(text, [name], "{}.", ())
            alone = embedded(text, own, single, frozen)
            torch.testing.assert_close(alone[0], among[row], rtol=0, atol=1e-5)
            loose = embedded(text, own, single)
            assert (loose[0] - among[row]).abs().max() > 1e-4

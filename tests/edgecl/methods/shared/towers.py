"""What tests of methods that fine-tune both towers share."""

import math
from typing import Any

import torch
from torch import Tensor

from edgecl.backbones import Clip, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.methods import build_method
from edgecl.methods.shared.two_tower_lora import TwoTowerLora
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match

F_WIDTH, SCALE = 192, math.exp(2.0)


def method_of(name: str, clip: Clip, **config: Any) -> TwoTowerLora:
    method = build_method(name, BackboneSpec.of(clip), config)
    assert isinstance(method, TwoTowerLora)
    return method


def factors(method: TwoTowerLora, seed: int) -> Tensors:
    """Return random changes of both towers."""
    generator = torch.Generator().manual_seed(seed)
    declared = {**method.program.injector.declare(), **method.local()}
    return {
        name: torch.randn(item.shape(0), generator=generator) * 0.1
        for name, item in declared.items()
    }


def view(clip: Clip, images: int = 6, index: int = 0, **fields: Any) -> TaskContext:
    """Return a task of two classes, the second one of the stream where `index` is 1."""
    rows = ("hue-0", "hue-1", "hue-2", "hue-3")[: 2 * index + 2]
    labels = torch.arange(images) % 2
    given: dict[str, Any] = {"features": {"initial": torch.randn(images, F_WIDTH)}, **fields}
    return TaskContext(
        index=index, classes=2, class_rows=rows, labels=labels, plain=None,
        learned=given.pop("learned", {}), state=given.pop("state", {}),
        generator=torch.Generator(), text_encoder=TextEncoder(clip), **given,
    )  # fmt: skip


def encoded(cls: Tensor) -> Encoded:
    none = Match(torch.zeros(len(cls), 1).long(), torch.ones(len(cls), 1))
    return Encoded(None, none, Features(cls, torch.zeros_like(cls)))

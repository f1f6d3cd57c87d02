"""What tests of programs and recipes share: random tensors, tasks that begin, injected passes."""

from dataclasses import replace

import torch
from torch import Tensor

from edgecl.backbones import Backbone, Features
from edgecl.methods import Method
from edgecl.program.fitting import TaskContext
from edgecl.program.injectors import Injector
from edgecl.program.learned import Tensors, join, start_part, with_part
from edgecl.program.matchers import Match

NOTHING = Match(torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bank(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def view(method: Method, index: int, classes: int, learned: Tensors, **more: object) -> TaskContext:
    """Return a task of one image, whose number of classes is that of every task before it."""
    given = TaskContext(
        index=index,
        classes=classes,
        class_rows=("a",) * (classes * (index + 1)),
        labels=torch.zeros(1, dtype=torch.int64),
        plain=None,
        features={},
        learned=learned,
        state={},
        generator=generator(index),
    )
    return replace(given, **more)  # type: ignore[arg-type]


def begun(method: Method, tasks: int, classes: int = 2) -> tuple[Tensors, Tensors]:
    """Return what all tasks learned, untrained, and the last one's part."""
    declared = method.program.declare()
    learned = join(declared, [])
    part: Tensors = {}
    for index in range(tasks):
        fresh = start_part(declared, learned, classes, generator(index), trained=True)
        part = method.begin_task(view(method, index, classes, learned), fresh)
        learned = with_part(declared, learned, part)
    return learned, part


def started(injector: Injector, seed: int = 0) -> Tensors:
    """Return an injector's tensors as they start."""
    generator = torch.Generator().manual_seed(seed)
    return {name: item.init(item.shape(2), generator) for name, item in injector.declare().items()}


def noise(injector: Injector, scale: float = 0.3) -> Tensors:
    """Return random tensors of an injector."""
    torch.manual_seed(3)
    return {name: scale * torch.randn(item.shape(2)) for name, item in injector.declare().items()}


def through(backbone: Backbone, injector: Injector, learned: Tensors, pixels: Tensor) -> Features:
    """Return the features under an injector that no match steers."""
    sites = injector.sites(injector.fill(NOTHING, learned))
    with torch.no_grad():
        return backbone.model(pixels, sites)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def same(left: Features, right: Features, atol: float) -> None:
    torch.testing.assert_close(left.cls, right.cls, rtol=0, atol=atol)

"""Nothing is computed twice in training, and what is trained is the same as if it were."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecl.backbones import Backbone
from edgecl.backbones.blocks import softmax_attention, unfused_attention
from edgecl.backbones.sites import Adapter, Injection, Pixels, Prefix, ScaleShift, Tokens
from edgecl.backbones.vit import Stem, ViT
from edgecl.learning import activations
from edgecl.learning.activations import (
    Activations,
    TensorCache,
    first_block,
    is_trained,
    to_bfloat16,
)
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute
from edgecl.methods import methods
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
WIDTH = 192
EPOCHS = 4  # LAE's first two rest, then two train
BATCH = 4
IMAGES = 8  # of a task
ROUNDING = 1e-5  # the last bits depend on an image's place in its batch, and Adam enlarges them


def schedule(name: str) -> bool:
    return "schedule" in methods()[name].config_type.__dataclass_fields__


def tokens(block: int, **kind: Any) -> Tokens:
    return Tokens(torch.full((2, WIDTH), 0.1), block, **kind)


@pytest.fixture
def vit(tiny_backbone: Backbone) -> ViT:
    assert isinstance(tiny_backbone.model, ViT)
    return tiny_backbone.model


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def learn(make_learner: MakeLearner, make_stream: MakeStream) -> Callable[..., Learner]:
    """Return a function that trains a method on two tasks."""

    def run(name: str, out: str, bfloat16: bool = False, epochs: int = EPOCHS) -> Learner:
        stream = make_stream(((0, 1), (2, 3)), train=IMAGES // 2, test=1)
        config = {"schedule": {"epochs": epochs, "batch_size": BATCH}}
        learner = make_learner(name, stream, out=out, config=config)
        learner.compute = Compute(torch.device("cpu"), bfloat16)
        learn_stream(learner, stream)
        return learner

    return run


# -- what is trained is the same


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", [name for name in methods() if schedule(name)])
def test_the_trained_tensors_are_the_same_without_the_caches(
    name: str,
    bfloat16: bool,
    learn: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs = EPOCHS if name == "lae" else 2  # the second one reads what the first one kept
    kept = learn(name, "kept", bfloat16, epochs).run.parts()
    monkeypatch.setattr(activations, "LIMIT", 0)
    monkeypatch.setattr(activations, "to_bfloat16", lambda backbone: backbone)
    again = learn(name, "again", bfloat16, epochs).run.parts()
    for one, other in zip(kept, again, strict=True):
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], rtol=0, atol=ROUNDING, msg=key)


# -- what is not computed twice


def images_through(monkeypatch: pytest.MonkeyPatch, model: ViT, name: str) -> list[int]:
    """Note how many images each call of a function of the backbone gets."""
    found: list[int] = []
    function = getattr(ViT, name)

    def noted(self: ViT, *args: Any, **kwargs: Any) -> Any:
        given = next(arg for arg in args if isinstance(arg, Tensor | Stem))
        found.append(len(given.x if isinstance(given, Stem) else given))
        return function(self, *args, **kwargs)

    monkeypatch.setattr(ViT, name, noted)
    return found


@pytest.mark.parametrize("name", ["aper-adapter", "dualprompt", "lae"])
def test_the_rows_in_front_of_the_injection_are_computed_once_per_task(
    name: str, learn: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch, vit: ViT
) -> None:
    before = images_through(monkeypatch, vit, "tokens_before")
    learner = learn(name, "run")
    trained = [task for task in range(2) if learner.method.is_trained(task)]
    assert sum(before) == IMAGES * len(trained)


@pytest.mark.parametrize(("name", "tasks", "resting"), [("vpt-deep", 1, 1), ("lae", 2, 1)])
def test_a_resting_injection_runs_once_per_image(
    name: str,
    tasks: int,
    resting: int,
    learn: Callable[..., Learner],
    monkeypatch: pytest.MonkeyPatch,
    vit: ViT,
) -> None:
    behind = images_through(monkeypatch, vit, "run_from")
    forward = images_through(monkeypatch, vit, "forward")
    learn(name, "run")
    training = [count for count in forward if count <= BATCH]  # not the learner's own batches
    assert sum(training) == IMAGES * resting
    rest = EPOCHS // 2 if name == "lae" else 0
    assert sum(behind) == IMAGES * (EPOCHS * tasks - rest)


def test_a_trained_matcher_or_injection_is_never_taken_as_steady(
    tiny_backbone: Backbone, vit: ViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = images_through(monkeypatch, vit, "_run")
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    runs = Activations(vit, tiny_backbone.preprocess.normalise, images, torch.device("cpu"), False)
    rows = torch.arange(3)
    trained = Tokens(torch.zeros(2, WIDTH, requires_grad=True))
    cases: list[tuple[bool, Injection, bool]] = [
        (True, (tokens(0),), True),
        (True, (tokens(0),), False),
        (False, (tokens(0),), True),
        (True, (tokens(0),), True),  # forgotten by the call before it
        (True, (tokens(0), trained), True),
        (True, (tokens(0),), True),
        (True, (), True),
        (True, (), True),
    ]
    for match_is_constant, injection, computes in cases:
        count = len(forward)
        runs.of(rows, match_is_constant)(runs.no_pixels(rows), injection)
        assert (len(forward) > count) == computes


def test_a_batch_that_is_repeated_runs_once_per_branch(tiny_backbone: Backbone, vit: ViT) -> None:
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    runs = Activations(vit, tiny_backbone.preprocess.normalise, images, torch.device("cpu"), False)
    rows, banks = torch.tensor([2, 0]), torch.randn(2, 4, WIDTH)
    for _ in range(2):
        both = runs.of(rows, True)(runs.no_pixels(rows).repeat(2, 1, 1, 1), (Tokens(banks),))
        for branch, part in enumerate(both.prompt.split(2)):
            alone = vit(tiny_backbone.preprocess.normalise(images[rows]), (Tokens(banks[branch]),))
            torch.testing.assert_close(part, alone.prompt)
    with pytest.raises(AssertionError, match="whole runs"):
        runs.of(rows, True)(torch.zeros(3, 3, 0, 0), (tokens(0),))


# -- the parts


def test_kept_rows_come_back_once_all_are_known() -> None:
    kept, x = TensorCache(5), torch.randn(5, 2)
    assert kept.get(torch.tensor([1])) is None
    kept.put(torch.tensor([3, 0]), {"x": x[[3, 0]].requires_grad_()})
    assert kept.get(torch.tensor([0, 1])) is None
    known = kept.get(torch.tensor([0, 3, 0]))
    assert known is not None
    assert torch.equal(known["x"], x[[0, 3, 0]])
    assert not known["x"].requires_grad
    kept.clear()
    assert kept.get(torch.tensor([0])) is None


def test_what_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, x = torch.tensor([0]), torch.zeros(1, 4)
    for limit, known in ((79, False), (80, True)):
        monkeypatch.setattr(activations, "LIMIT", limit)
        kept = TensorCache(5)
        kept.put(rows, {"x": x})
        assert (kept.get(rows) is not None) == known


def test_the_first_block_that_an_injection_enters() -> None:
    scale = torch.ones(WIDTH)
    prefix = Prefix(torch.zeros(2, WIDTH), torch.zeros(2, WIDTH), 3)
    assert first_block((tokens(5), prefix)) == 3
    assert first_block((prefix, ScaleShift(scale, scale, "norm"))) == 3
    assert first_block((prefix, ScaleShift(scale, scale, "patch"))) is None
    assert first_block((prefix, Pixels(torch.zeros(3, 8, 8)))) is None
    assert first_block((ScaleShift(scale, scale, "norm"),)) is None
    assert first_block(()) is None


def test_an_injection_moves_if_any_tensor_is_trained() -> None:
    rest = torch.zeros(2, WIDTH)
    assert not is_trained((Tokens(rest), Tokens(rest, mask=torch.zeros(2))))
    assert is_trained((Tokens(rest), Tokens(rest * torch.ones(1, requires_grad=True))))


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("asked", [{}, {"taps": 1}, {"tokens": True}])
def test_before_and_behind_make_forward(
    block: int, asked: dict[str, Any], vit: ViT, pixels: Tensor
) -> None:
    adapter = Adapter(
        torch.randn(WIDTH, 2), torch.zeros(2), torch.randn(2, WIDTH), torch.zeros(WIDTH), 1
    )
    for injection in ((tokens(block), adapter), (tokens(block, keep=False),), ()):
        whole = vit(pixels, injection, **asked).named()
        parts = vit.run_from(block, vit.tokens_before(block, pixels), injection, **asked).named()
        assert whole.keys() == parts.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, parts[name]), name


def test_lowered_weights_are_what_autocast_makes_of_them(vit: ViT, pixels: Tensor) -> None:
    low = to_bfloat16(vit)
    assert vit.blocks[0].attn.qkv.weight.dtype == torch.float32
    assert low.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert all(
        p.dtype == torch.float32
        for module in low.modules()
        if isinstance(module, nn.LayerNorm)
        for p in module.parameters()
    )
    with torch.autocast("cpu", torch.bfloat16):
        for one, other in zip(vit(pixels, taps=1), low(pixels, taps=1), strict=True):
            assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("bias", [None, 5, (4, 5)])
def test_attention_by_single_operations_is_attention(bias: Any) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    added = None if bias is None else torch.randn(bias if isinstance(bias, tuple) else (bias,))
    exact = softmax_attention(q, k, v, added)
    mask = None if added is None else added.expand(4, 5)
    torch.testing.assert_close(exact, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    with torch.autocast("cpu", torch.bfloat16):
        found = unfused_attention(q, k, v, added)
        assert torch.equal(found, softmax_attention(q, k, v, added))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)


def test_attention_ignores_padding_by_single_operations() -> None:
    q, k, v = torch.randn(3, 1, 1, 5, 8)
    bias = torch.tensor([0.0, 0.0, 0.0, -1e9, -1e9])
    with torch.autocast("cpu", torch.bfloat16):
        padded = unfused_attention(q, k, v, bias)
        assert torch.equal(padded, unfused_attention(q, k[:, :, :3], v[:, :, :3], None))

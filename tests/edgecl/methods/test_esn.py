"""ESN: heads per task, how it scores the rows of other tasks, the anchor, the backbone's tokens."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, BackboneError, Features
from edgecl.backbones.cnn import CNN
from edgecl.backbones.sites import Tokens
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.base import Batch
from edgecl.methods.esn import CANDIDATES, Esn, TaskHeads
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.class_attention import TaskBlocks
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.program.matchers.energy import confidence
from edgecl.session import learn_stream, learn_task
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
D, HEAD, HEADS = 12, 4, 3


def some(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=generator(seed)) * scale


def random_blocks(blocks: TaskBlocks, tasks: int) -> Tensors:
    """Return tensors that all matter: no scale is one, no bias zero."""
    found = {}
    for index, (name, item) in enumerate(blocks.declare().items()):
        shape = (tasks, *(item.sizes[axis] for axis in item.axis_names[1:]))
        found[name] = some(*shape, seed=index, scale=0.5)
    return found


def random_method(
    spec: BackboneSpec, counts: tuple[int, ...], seed: int = 0
) -> tuple[Esn, Tensors]:
    """Return ESN with a bank of tasks that nobody trained."""
    method = build_method("esn", spec)
    assert isinstance(method, Esn)
    parts = []
    for task, classes in enumerate(counts):
        part = {
            name: torch.randn(item.shape(classes), generator=generator(seed + 100 * task + index))
            * 0.3
            for index, (name, item) in enumerate(method.program.declare().items())
        }
        part["task_rows"] = torch.tensor([float(classes)])
        part["temperatures"] = torch.tensor([CANDIDATES[(5 * task + 2) % len(CANDIDATES)]])
        parts.append(part)
    learned = {
        name: torch.cat([part[name] for part in parts], item.dim)
        if item.dim is not None
        else parts[0][name]
        for name, item in method.program.declare().items()
    }
    return method, learned


# -- the backbone's tokens


def test_tokens_are_all_rows_behind_the_last_block(tiny_backbone: Backbone) -> None:
    model = tiny_backbone.model
    pixels = some(2, 3, 32, 32)
    seen: list[Tensor] = []
    hook = model.blocks[-1].register_forward_hook(lambda *given: seen.append(given[-1]))
    prompts = Tokens(some(3, 192))
    with torch.no_grad():
        usual = model(pixels, (prompts,))
        found = model(pixels, (prompts,), tokens=True)
    hook.remove()
    assert usual.tokens is None
    assert found.tokens is not None
    assert seen[0].shape == (2, 1 + 3, 192), "no more than is read"
    assert found.tokens.shape == (2, 1 + 3 + 4, 192)
    assert torch.equal(found.tokens, seen[1])
    torch.testing.assert_close(model.norm(found.tokens[:, 0]), found.cls)
    torch.testing.assert_close(found.cls, usual.cls)
    torch.testing.assert_close(found.prompt, usual.prompt)


def test_rows_of_one_block_only_are_no_tokens_and_padding_is_zeros(tiny_backbone: Backbone) -> None:
    mask = torch.tensor([0.0, 0.0, -1e9])
    kept = Tokens(some(3, 192), mask=mask)
    dropped = Tokens(some(5, 192, seed=1), block=1, keep=False)
    pixels = some(2, 3, 32, 32)
    with torch.no_grad():
        found = tiny_backbone.model(pixels, (kept, dropped), tokens=True).tokens
        short = Tokens(kept.value[:2])
        want = tiny_backbone.model(pixels, (short, dropped), tokens=True).tokens
    assert found is not None
    assert found.shape == (2, 1 + 3 + 4, 192)
    assert not found[:, 3].any()
    torch.testing.assert_close(found[:, [0, 1, 2, 4, 5, 6, 7]], want, rtol=1e-4, atol=1e-5)


def test_a_network_without_tokens_says_so() -> None:
    with pytest.raises(BackboneError, match=r"tokens=True. Use a method without injection"):
        CNN("efficientnet_lite0")(torch.zeros(1, 3, 32, 32), tokens=True)


ROWS = {"task_rows": torch.tensor([2.0, 1.0, 3.0])}
# Sure at T = 0.001 (the largest logit): task 0 by 2.0. At T = 1: task 2 by log(3) + 1.5 = 2.6.
DIVIDED = [2.0, -9.0, 1.0, 1.5, 1.5, 1.5]


# -- the vote


def test_fit_appends_the_temperature_of_the_current_images(tiny_backbone: Backbone) -> None:
    method = build_method("esn", BackboneSpec.of(tiny_backbone))
    view = TaskContext(
        index=2, classes=3, class_rows=(), labels=torch.tensor([0, 1]), plain=None, features={},
        learned=ROWS, state={}, generator=generator(),
        encode=lambda _: {"logits": torch.tensor([DIVIDED, DIVIDED])},
    )  # fmt: skip
    fitted = method.fit(view)
    assert fitted.part.keys() == {"temperatures"}
    assert fitted.part["temperatures"].tolist() == pytest.approx([0.5])  # 1.5 + 0.5 log 3 > 2.0
    assert not fitted.state


def encoded(tokens: Tensor, match: int = 0) -> Encoded:
    b, d = tokens.shape[0], tokens.shape[-1]
    index = torch.full((b, 1), match)
    features = Features(tokens.new_zeros(b, d), tokens.new_zeros(b, d), None, tokens)
    return Encoded(None, Match(index, torch.ones(b, 1)), features)


# -- scores


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_rows_of_other_tasks_lie_below_the_winners_in_their_own_order(scale: float) -> None:
    heads = TaskHeads(D, on="cls", blocks=TaskBlocks(D, HEAD))
    learned = random_blocks(heads.blocks, 3) | ROWS
    learned |= {"head_weight": some(6, D, seed=7, scale=scale), "head_bias": some(6, seed=8)}
    given = encoded(some(9, 7, D, seed=99), match=2)
    logits, scores = heads.logits(given, learned), heads.scores(given, learned)
    assert torch.equal(scores[:, 3:], logits[:, 3:]), "the winner's rows stay logits"
    assert (scores[:, :3].amax(dim=1) < scores[:, 3:].amin(dim=1)).all()
    assert torch.equal(scores[:, :3].argsort(dim=1), logits[:, :3].argsort(dim=1))
    assert scores.half().isfinite().all()
    assert (scores.half()[:, :3].amax(dim=1) < scores.half()[:, 3:].amax(dim=1)).all()


def test_one_task_has_no_others() -> None:
    heads = TaskHeads(D, on="cls", blocks=TaskBlocks(D, HEAD))
    learned = random_blocks(heads.blocks, 1) | {"task_rows": torch.tensor([4.0])}
    learned |= {"head_weight": some(4, D), "head_bias": some(4)}
    given = encoded(some(9, 7, D))
    assert torch.equal(heads.scores(given, learned), heads.logits(given, learned))


def test_a_row_is_scored_by_its_own_tasks_token() -> None:
    heads = TaskHeads(D, on="cls", blocks=TaskBlocks(D, HEAD))
    learned = random_blocks(heads.blocks, 3) | ROWS
    learned |= {"head_weight": some(6, D, seed=7), "head_bias": some(6, seed=8)}
    given = encoded(some(9, 7, D, seed=99))
    tokens = given.features("injected").tokens
    assert tokens is not None
    every = heads.blocks(tokens, learned)
    want = [
        every[task] @ learned["head_weight"][row] + learned["head_bias"][row]
        for row, task in enumerate([0, 0, 1, 2, 2, 2])
    ]
    logits = heads.logits(given, learned)
    torch.testing.assert_close(logits, torch.stack(want, dim=1))
    torch.testing.assert_close(heads.newest(given, learned, 3), logits[:, 3:])


# -- the method


def test_training_draws_the_free_energy_that_votes_to_the_anchor(tiny_backbone: Backbone) -> None:
    """The soft maximum of the logits, as at test; the public code trains the soft minimum."""
    method, learned = random_method(BackboneSpec.of(tiny_backbone), (2, 3))
    given = encoded(some(4, 7, 192, seed=5))
    labels = torch.tensor([0, 1, 2, 0])
    logits = method.program.classifier.logits(given, learned)[:, 2:]
    energy = -logits.exp().sum(dim=1).log()
    want = F.cross_entropy(logits, labels) + 0.1 * (energy + 10).square().mean()
    loss = method.loss(Batch(given, labels, 3), learned)
    torch.testing.assert_close(loss, want)
    rows = {"task_rows": learned["task_rows"]}
    sure = confidence(method.program.classifier.logits(given, learned), torch.ones(1), rows)
    torch.testing.assert_close(-energy, sure[:, 0, 1])


def test_a_head_starts_at_the_anchor(tiny_backbone: Backbone) -> None:
    spec = BackboneSpec.of(tiny_backbone)
    for anchor in (-10.0, 3.0):
        method = build_method("esn", spec, {"anchor": anchor})
        rows = {"task_rows": torch.tensor([5.0])}
        fresh = {
            name: item.init(item.shape(5), generator())
            for name, item in method.program.declare().items()
            if item.trained
        }
        view = TaskContext(
            index=0, classes=5, class_rows=(), labels=torch.arange(5), plain=None, features={},
            learned={}, state={}, generator=generator(),
        )  # fmt: skip
        part = method.begin_task(view, fresh)
        assert part.keys() == fresh.keys()
        assert isinstance(method, Esn)
        logits = method.program.classifier.logits(encoded(some(4, 7, 192)), part | rows)
        torch.testing.assert_close(-logits.logsumexp(1), torch.full((4,), anchor), atol=0.5, rtol=0)


def test_one_image_says_what_it_says_among_64(tiny_backbone: Backbone) -> None:
    method, learned = random_method(BackboneSpec.of(tiny_backbone), (2, 2, 2))
    pixels = some(64, 3, 32, 32, scale=2.0)
    with torch.no_grad():
        together = method.program.infer(tiny_backbone.model, pixels, learned)
        alone = [
            method.program.infer(tiny_backbone.model, pixels[[row]], learned)
            for row in range(0, 64, 7)
        ]
    assert len(set(together.match.flatten().tolist())) > 1
    for row, one in zip(range(0, 64, 7), alone, strict=True):
        assert torch.equal(one.match[0], together.match[row])
        for field in ("scores", "feature", "match_score"):
            want = getattr(together, field)[row]
            torch.testing.assert_close(getattr(one, field)[0], want, rtol=1e-4, atol=1e-4)
        owner = int(one.scores.argmax()) // 2
        assert owner == int(one.match)


def test_tasks_are_appended_and_the_prompt_ships_once(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3, 4), (5,)), train=4)
    learner = make_learner("esn", stream)
    before: dict[str, bytes] = {}
    for task in stream.tasks:
        learn_task(learner, task, stream.classes)
        learned = learner.learned()
        for name, old in before.items():
            assert learned[name].numpy().tobytes().startswith(old), name
        before = {name: tensor.numpy().tobytes() for name, tensor in learned.items()}
    first, *later = learner.run.parts()
    assert "prompts" in first
    assert not any("prompts" in part for part in later)
    assert learner.learned()["task_rows"].tolist() == [2, 3, 1]
    temperatures = learner.learned()["temperatures"]
    assert temperatures[0] == np.float32(CANDIDATES[0]), "one task: all are equal, the first stays"
    assert set(temperatures.tolist()) <= set(torch.tensor(CANDIDATES).tolist())


def test_two_far_tasks_are_told_apart(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    stream = make_stream(((0, 3), (1, 4)), train=8, test=6)
    config = {"schedule": {"epochs": 20, "batch_size": 4}}
    learner = make_learner("esn", stream, config=config)
    learn_stream(learner, stream)
    found = learner.run.evaluation(1)
    assert found is not None
    assert sum(found.match.values()) == 24
    assert np.mean(found.accuracy) > 0.7


def test_a_prompt_has_rows() -> None:
    with pytest.raises(MethodError, match=r"esn.length must be at least 1, got 0. Raise it"):
        build_method("esn", BackboneSpec(192, 2, frozenset({"tokens"}), ""), {"length": 0})

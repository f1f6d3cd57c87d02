"""The losses by hand, and the loop that minimises them."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning import training
from edgecl.learning.activations import Activations
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute, train_task
from edgecl.methods import Method, build_method, methods
from edgecl.methods.base import Batch
from edgecl.optim import TrainConfig, make_optimizer
from edgecl.program import BackboneModel, Program
from edgecl.program.classifiers import Encoded, Linear
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors, TensorSpec, start_part, uniform, with_part
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream
from edgecl_deploy.progress import Reporter

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
CPU = Compute(torch.device("cpu"))


def encoded(feature: Tensor, match: Match) -> Encoded:
    zeros = torch.zeros_like(feature)
    return Encoded(Features(zeros, zeros), match, Features(feature, feature))


def built(backbone: Backbone, name: str, **config: Any) -> Method:
    return build_method(name, BackboneSpec.of(backbone), config)


# -- L2P


def test_l2p_s_loss_by_hand(tiny_backbone: Backbone) -> None:
    torch.manual_seed(0)
    method = built(tiny_backbone, "l2p", pull=0.5)
    feature = torch.randn(3, 192)
    labels = torch.tensor([1, 0, 1])
    score = torch.rand(3, 5)
    learned = {"head_weight": torch.randn(6, 192), "head_bias": torch.randn(6)}
    batch = Batch(encoded(feature, Match(torch.zeros(3, 5).long(), score)), labels, classes=2)
    logits = feature @ learned["head_weight"].T + learned["head_bias"]
    picked = logits[:, 4:] - torch.logsumexp(logits[:, 4:], dim=1, keepdim=True)
    expected = -picked[torch.arange(3), labels].mean() - 0.5 * score.sum() / 3
    torch.testing.assert_close(method.loss(batch, learned), expected)


def test_l2p_masks_the_rows_of_other_tasks(tiny_backbone: Backbone) -> None:
    torch.manual_seed(0)
    method = built(tiny_backbone, "l2p")
    learned = {
        "head_weight": torch.randn(6, 192, requires_grad=True),
        "head_bias": torch.randn(6, requires_grad=True),
    }
    match = Match(torch.zeros(3, 5).long(), torch.rand(3, 5))
    batch = Batch(encoded(torch.randn(3, 192), match), torch.tensor([1, 0, 1]), classes=2)
    method.loss(batch, learned).backward()
    for tensor in learned.values():
        assert tensor.grad is not None
        assert tensor.grad[:4].abs().max() == 0
        assert tensor.grad[4:].abs().max() > 0


def test_l2p_carries_its_pool_over_and_starts_new_rows(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("l2p", stream)
    learn_stream(learner, stream)
    parts = learner.run.parts()
    assert [tuple(part["head_weight"].shape) for part in parts] == [(2, 192)] * 3
    moved = [(b["prompts"] - a["prompts"]).abs() for a, b in pairwise(parts)]
    for change in moved:
        # A few steps of Adam at 0.001875 each; a fresh pool would differ by up to 2.
        assert 0 < change.max() < 0.05


def test_the_pull_draws_the_chosen_keys_to_the_query(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1),), train=6)
    scores = {}
    for pull in (0.0, 50.0):
        config = {"pull": pull, "schedule": {"epochs": 10, "batch_size": 4, "lr": 0.05}}
        learner = make_learner("l2p", stream, config=config, out=f"pull-{pull}")
        learn_stream(learner, stream)
        images = learner.load(stream.tasks[0].test, "").images
        scores[pull] = learner.predict(images).match_score.mean()
    assert scores[50.0] > scores[0.0] + 0.2


# -- APER


def test_aper_s_loss_is_a_scaled_cosine_head(tiny_backbone: Backbone) -> None:
    torch.manual_seed(0)
    method = built(tiny_backbone, "aper-adapter")
    feature, labels = torch.randn(3, 192), torch.tensor([1, 0, 1])
    learned = {"session_weight": torch.randn(2, 192), "session_scale": torch.tensor([4.0])}
    batch = Batch(encoded(feature, Match(torch.zeros(3, 1).long(), torch.ones(3, 1))), labels, 2)
    cosine = F.cosine_similarity(feature[:, None], learned["session_weight"][None], dim=-1)
    torch.testing.assert_close(method.loss(batch, learned), F.cross_entropy(4 * cosine, labels))


def test_aper_trains_its_adapters_on_the_first_task_only(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream()
    learner = make_learner("aper-adapter", stream)
    calls = []
    monkeypatch.setattr(
        "edgecl.learning.learner.train_task", lambda *a, **k: calls.append(1) or train_task(*a, **k)
    )
    learn_stream(learner, stream)
    first, *later = learner.run.parts()
    adapters = {"adapter_down", "adapter_down_bias", "adapter_up", "adapter_up_bias"}
    assert len(calls) == 1
    assert first.keys() == adapters | {"prototypes"}
    assert all(part.keys() == {"prototypes"} for part in later)
    assert all(torch.equal(learner.learned()[name], first[name]) for name in adapters)


def test_untrained_adapters_leave_two_equal_branches(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("aper-adapter", stream, config={"schedule": {"epochs": 0}})
    learn_stream(learner, stream)
    prototypes = learner.learned()["prototypes"]
    torch.testing.assert_close(prototypes[:, 0], prototypes[:, 1], rtol=0, atol=1e-5)


# -- the loop


def trained(
    backbone: Backbone,
    schedule: dict[str, Any],
    prior: Tensors | None = None,
    seed: int = 0,
    **config: Any,
) -> Tensors:
    method = built(backbone, "l2p", schedule=schedule, **config)
    prior = (
        {"head_weight": torch.zeros(0, 192), "head_bias": torch.zeros(0)}
        if prior is None
        else prior
    )
    images = torch.randint(
        0, 256, (8, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    generator = torch.Generator().manual_seed(seed)
    start = start_part(method.program.declare(), prior, 2, generator, trained=True)
    view = TaskContext(
        index=0, classes=2, class_rows=("a", "b"), labels=torch.arange(8) % 2, plain=None,
        features={}, learned=prior, state={}, generator=generator,
    )  # fmt: skip
    return train_task(
        method, backbone.model, backbone.preprocess.normalise, view, start, images, CPU, Reporter()
    )


def test_old_rows_are_not_touched_even_by_weight_decay(tiny_backbone: Backbone) -> None:
    first = trained(tiny_backbone, {"epochs": 1})
    before = {name: tensor.clone() for name, tensor in first.items()}
    schedule = {"optimizer": "sgd", "epochs": 2, "weight_decay": 0.5, "lr": 0.1}
    second = trained(tiny_backbone, schedule, prior=first)
    assert all(torch.equal(first[name], before[name]) for name in first)
    assert second["head_weight"].shape == (2, 192)
    assert not torch.equal(second["prompts"], before["prompts"])


def test_no_epoch_returns_the_start(tiny_backbone: Backbone) -> None:
    part = trained(tiny_backbone, {"epochs": 0})
    generator = torch.Generator().manual_seed(0)
    declared = built(tiny_backbone, "l2p").program.declare()
    start = start_part(declared, {}, 2, generator, trained=True)
    assert part.keys() == start.keys()
    assert all(torch.equal(part[name], start[name]) for name in start)


def test_a_fresh_start_is_drawn_and_a_former_tensor_copied() -> None:
    declared = {
        "rows": TensorSpec("c d", {"d": 2}, concat_axis="c", init=uniform(1.0), trained=True),
        "pool": TensorSpec("m d", {"d": 2}, start={"m": 3}, init=uniform(1.0), trained=True),
        "means": TensorSpec("c d", {"d": 2}, concat_axis="c"),
    }
    prior = {"rows": torch.ones(4, 2), "pool": torch.ones(3, 2), "means": torch.ones(4, 2)}
    part = start_part(declared, prior, 2, torch.Generator(), trained=True)
    assert part.keys() == {"rows", "pool"}
    assert part["rows"].shape == (2, 2)
    part["pool"].zero_()
    assert prior["pool"].min() == 1, "the former tensor is not written to"
    assert start_part(declared, prior, 2, torch.Generator(), trained=False) == {}
    learned = with_part(declared, prior, part)
    assert learned["rows"].shape == (6, 2)
    assert learned["pool"].max() == 0
    assert torch.equal(learned["means"], prior["means"])


def test_a_replaced_head_grows_by_fresh_rows() -> None:
    head = TensorSpec("d c", {"d": 2}, init=uniform(1.0), trained=True)
    assert head.whole
    assert (head.shape(3), head.shape(3, former=4)) == ((2, 3), (2, 7))
    prior = {"head": torch.full((2, 4), 5.0)}
    part = start_part({"head": head}, prior, 3, torch.Generator(), trained=True)
    assert part["head"].shape == (2, 7)
    assert part["head"][:, :4].min() == 5
    assert 0 < part["head"][:, 4:].abs().max() <= 1
    assert with_part({"head": head}, prior, part)["head"].shape == (2, 7)


def test_a_task_may_start_from_the_former_ones_and_from_its_queries(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`begin_task` gives leaves and constants; `fit` sees both, and the former task's state."""
    views: list[TaskContext] = []

    class Centred(Linear):
        """A head with a centre per task that is not trained."""

        def declare(self) -> dict[str, TensorSpec]:
            own = {"centre": TensorSpec("t d", {"d": 192}, concat_axis="t", start={"t": 1})}
            return {**super().declare(), **own}

    class Started(methods()["l2p"]):  # type: ignore[misc]
        """L2P with a centre per task, and a head that begins as the last one."""

        def build(self) -> Program:
            return replace(super().build(), classifier=Centred(192, on="prompt"))

        def begin_task(self, task: TaskContext, fresh: Tensors) -> Tensors:
            fresh["centre"] = task.queries.mean(dim=0, keepdim=True)
            if task.index:
                fresh["head_weight"] = task.learned["head_weight"][-task.classes :].clone()
            return fresh

        def fit(self, task: TaskContext) -> FitResult:
            found = task.encode(lambda encoded, _: {"query": encoded.features("plain").cls})
            views.append(replace(task, features=found))
            seen = task.state.get("seen", torch.zeros(0, dtype=torch.int64))
            return FitResult({}, {"seen": torch.cat([seen, torch.tensor([len(task.labels)])])})

    stream = make_stream(((0, 1), (2, 3)), train=5)
    learner = make_learner("l2p", stream, config={"schedule": {"epochs": 0}})
    learner = replace(learner, method=Started(learner.method.config, learner.method.spec))
    learn_stream(learner, stream)
    first, second = learner.run.parts()
    assert torch.equal(second["head_weight"], first["head_weight"])
    assert [view.class_rows for view in views] == [stream.classes[:2], stream.classes]
    for index, view in enumerate(views):
        mean = view.features["query"].mean(dim=0)
        torch.testing.assert_close(learner.run.part(index)["centre"][0], mean)
        torch.testing.assert_close(view.learned["centre"][index], mean)
        assert view.labels.tolist() == [0] * 5 + [1] * 5
    assert views[1].state["seen"].tolist() == [10]
    assert learner.run.state()["seen"].tolist() == [10, 10]


@pytest.mark.parametrize(("cosine", "last"), [(True, 0.0025), (False, 0.01)])
def test_the_rate_anneals_over_the_epochs_or_stays(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, cosine: bool, last: float
) -> None:
    rates: list[float] = []

    def watched(schedule: TrainConfig, leaves: list[Tensor], *rest: Any) -> torch.optim.Optimizer:
        optimizer = make_optimizer(schedule, leaves, *rest)
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", watched)
    trained(tiny_backbone, {"lr": 0.01, "epochs": 3, "batch_size": 4, "cosine": cosine})
    assert len(rates) == 6  # two batches of four per epoch
    assert rates[0] == rates[1] == 0.01
    assert rates[-1] == pytest.approx(last)


def test_the_gradient_is_clipped(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def watched(schedule: TrainConfig, leaves: list[Tensor], *rest: Any) -> torch.optim.Optimizer:
        optimizer = make_optimizer(schedule, leaves, *rest)
        optimizer.register_step_pre_hook(
            lambda *_: norms.append(sum(leaf.grad.square().sum().item() for leaf in leaves) ** 0.5)
        )
        return optimizer

    monkeypatch.setattr(training, "make_optimizer", watched)
    trained(tiny_backbone, {"epochs": 1, "clip": 0.01})
    trained(tiny_backbone, {"epochs": 1, "clip": None})
    clipped, free = norms
    assert clipped == pytest.approx(0.01, rel=1e-3)
    assert free > 0.02


def test_every_image_is_seen_once_per_epoch_in_an_order_of_the_seed(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    of = Activations.of

    def watched(self: Activations, rows: Tensor, match_is_constant: bool) -> BackboneModel:
        seen.append(rows.tolist())
        return of(self, rows, match_is_constant)

    monkeypatch.setattr(Activations, "of", watched)
    trained(tiny_backbone, {"epochs": 2, "batch_size": 5}, seed=1)
    assert [len(batch) for batch in seen] == [5, 3, 5, 3]
    epochs = [seen[0] + seen[1], seen[2] + seen[3]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(8))
    assert epochs[0] != epochs[1]
    again, seen[:] = seen[:], []
    trained(tiny_backbone, {"epochs": 2, "batch_size": 5}, seed=1)
    assert seen == again


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_the_optimiser_is_the_one_that_was_asked_for(name: str, kind: type) -> None:
    schedule = TrainConfig(name, lr=0.3, momentum=0.7, weight_decay=0.1)  # type: ignore[arg-type]
    optimizer = make_optimizer(schedule, [torch.zeros(1, requires_grad=True)])
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.1)
    assert group.get("momentum", 0.7) == 0.7


def test_a_closed_form_method_has_no_schedule(tiny_backbone: Backbone) -> None:
    method = built(tiny_backbone, "simplecil")
    assert not method.is_trained(0)
    with pytest.raises(MethodError, match="trains nothing by gradient: it has no schedule"):
        method.schedule(0)


def test_a_training_that_diverges_says_what_to_do(tiny_backbone: Backbone) -> None:
    with pytest.raises(MethodError, match=r"must stay finite.*schedule\.lr"):
        trained(tiny_backbone, {"epochs": 3, "batch_size": 4, "lr": 1e30, "clip": None})


@pytest.mark.parametrize("failing", [False, True])
def test_training_sums_in_one_order_and_leaves_no_trace(failing: bool) -> None:
    with contextlib.suppress(KeyError), CPU.repeatable():
        assert torch.are_deterministic_algorithms_enabled()
        if failing:
            raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_loss_is_computed_repeatably(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, said = make_learner("l2p"), []
    loss = type(learner.method).loss

    def watched(method: Method, batch: Batch, learned: Tensors) -> Tensor:
        said.append(torch.are_deterministic_algorithms_enabled())
        return loss(method, batch, learned)

    monkeypatch.setattr(type(learner.method), "loss", watched)
    learn_stream(learner, make_stream())
    assert said
    assert all(said)

"""Class alignment: Gaussians, their samples, the loss by hand; and SLCA around it."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.errors import MethodError
from edgecl.learning import training
from edgecl.learning.learner import Learner
from edgecl.methods.shared.head_alignment import (
    Gaussians,
    aligned,
    normalised_cross_entropy,
    trained_again,
)
from edgecl.methods.slca import SLCAConfig
from edgecl.optim import TrainConfig, make_optimizer
from edgecl.program.statistics import (
    JITTER,
    cholesky_factors,
    class_covariances,
    correlated_features,
)
from edgecl.session import learn_stream, learn_task
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(mean: list[float], count: int, seed: int) -> Tensor:
    """Return correlated rows around a mean."""
    mix = torch.tensor([[1.0, 0.0], [0.8, 0.3]])
    return torch.tensor(mean) + torch.randn(count, 2, generator=generator(seed)) @ mix.T


def test_covariances_are_those_of_each_class() -> None:
    features = torch.randn(30, 4, generator=generator())
    labels = torch.arange(3).repeat(10)
    found = class_covariances(features, labels, 3)
    for row in range(3):
        torch.testing.assert_close(found[row], torch.cov(features[labels == row].T))
    assert class_covariances(features[:1], labels[:1], 1).abs().max() == 0


def test_the_factors_give_the_covariance_and_the_jitter() -> None:
    features = torch.randn(3, 8, generator=generator())  # fewer images than features: singular
    covariance = class_covariances(features, torch.zeros(3).long(), 1)
    (factor,) = cholesky_factors(covariance)
    torch.testing.assert_close(factor @ factor.T, covariance[0] + JITTER * torch.eye(8))
    assert torch.equal(factor, factor.tril())


def test_an_indefinite_covariance_gets_as_much_jitter_as_it_needs_and_no_other_class_does() -> None:
    covariances = torch.stack([torch.eye(2), torch.diag(torch.tensor([1.0, -5e-3]))])
    sound, mended = cholesky_factors(covariances)
    torch.testing.assert_close(sound @ sound.T, (1 + JITTER) * torch.eye(2))
    want = torch.diag(torch.tensor([1.01, 5e-3]))
    torch.testing.assert_close(mended @ mended.T, want, rtol=1e-3, atol=1e-6)


def test_drawn_features_have_the_moments_of_their_class() -> None:
    means = torch.tensor([[1.0, -1.0], [5.0, 2.0]])
    covariances = torch.tensor([[[1.0, 0.8], [0.8, 2.0]], [[0.5, -0.2], [-0.2, 0.3]]])
    features, rows = correlated_features(means, cholesky_factors(covariances), 20_000, generator())
    assert torch.bincount(rows).tolist() == [20_000] * 2
    for row in range(2):
        some = features[rows == row]
        torch.testing.assert_close(some.mean(dim=0), means[row], rtol=0, atol=0.03)
        torch.testing.assert_close(torch.cov(some.T), covariances[row], rtol=0, atol=0.06)


def test_older_means_are_shorter() -> None:
    known = Gaussians(torch.ones(4, 1), torch.zeros(4, 1, 1), torch.tensor([0, 0, 1, 3]))
    assert known.shrunk().flatten().tolist() == pytest.approx([0.925, 0.925, 0.95, 1.0])


def test_the_loss_divides_by_the_mean_norm_of_the_tasks_logits() -> None:
    logits = torch.tensor([[3.0, 4.0, 1.0], [1.0, 0.0, -2.0]])
    rows = torch.tensor([1, 0])
    found = normalised_cross_entropy(torch.tensor([0, 0, 1]), 0.1)(logits, rows)
    scaled = torch.stack([logits[0] / (0.1 * (5 + 1) / 2), logits[1] / (0.1 * (1 + 2) / 2)])
    torch.testing.assert_close(found, F.cross_entropy(scaled, rows))


def test_alignment_mends_a_head_that_prefers_its_newest_rows() -> None:
    old = blob([6.0, 0.0], 50, 1), blob([-6.0, 0.0], 50, 2)
    new = blob([0.0, 8.0], 50, 3)  # apart, so that a good head errs nowhere
    known = Gaussians.of(torch.cat(old), torch.arange(2).repeat_interleave(50), 2, 0)
    known = known.plus(Gaussians.of(new, torch.zeros(50).long(), 1, 1))
    head = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 0.0, 20.0])
    features = torch.cat([*old, new])
    rows = torch.arange(3).repeat_interleave(50)

    def accuracy(head: tuple[Tensor, Tensor]) -> float:
        return (F.linear(features, *head).argmax(dim=1) == rows).float().mean().item()

    assert accuracy(head) < 0.5
    schedule = TrainConfig("sgd", lr=0.05, epochs=20, batch_size=64)
    mended = aligned(head, known, schedule, 0.1, generator())
    assert accuracy(mended) > 0.95
    again = aligned(head, known, schedule, 0.1, generator())
    assert torch.equal(mended[0], again[0])
    assert torch.equal(mended[1], again[1])
    assert head[1].tolist() == [0.0, 0.0, 20.0]


def test_every_epoch_draws_anew() -> None:
    drawn = []

    def draw() -> tuple[Tensor, Tensor]:
        drawn.append(torch.randn(6, 2, generator=draws))
        return drawn[-1], torch.arange(6) % 2

    draws = generator()
    head = torch.zeros(2, 2), torch.zeros(2)
    weight, _ = trained_again(head, draw, TrainConfig(epochs=3, batch_size=2), generator())
    assert len(drawn) == 3
    assert weight.abs().max() > 0


def test_statistics_survive_the_way_through_a_file() -> None:
    known = Gaussians.of(blob([1.0, 2.0], 9, 0), torch.zeros(9).long(), 1, 4)
    again = Gaussians.from_tensors(known.to_tensors())
    assert torch.equal(again.covariances, known.covariances)
    assert again.tasks.tolist() == [4]


# -- SLCA


def test_low_rank_terms_start_as_no_change(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("slca", stream, config={"schedule": {"epochs": 0}})
    learn_stream(learner, stream)
    images = learner.load(stream.tasks[0].test, "").images
    plain = learner.backbone.model(learner.normalise(torch.from_numpy(images))).cls
    torch.testing.assert_close(learner.predict(images).feature, plain, rtol=1e-6, atol=1e-6)


def test_the_rates_of_the_groups(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[dict[str, float]] = []

    def watched(
        schedule: TrainConfig, leaves: list[Tensor], *rest: object
    ) -> torch.optim.Optimizer:
        optimizer = make_optimizer(schedule, leaves, *rest)  # type: ignore[arg-type]
        owner = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        rates.append({name: owner[id(leaf)] for name, leaf in zip(names, leaves, strict=True)})
        return optimizer

    stream = make_stream(((0, 1), (2, 3)))
    config = {"schedule": {"lr": 0.2, "epochs": 1}, "first_rate": 0.25, "slow_rate": 0.125}
    learner = make_learner("slca", stream, config=config)
    names = list(learner.method.program.declare())
    monkeypatch.setattr(training, "make_optimizer", watched)
    learn_stream(learner, stream)
    for task, slow in ((0, 0.05), (1, 0.025)):
        assert {name: rates[task][name] for name in names} == pytest.approx({
            name: 0.2 if name.startswith("head") else slow for name in names
        })


def test_the_next_task_goes_on_from_the_head_in_front_of_its_alignment(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Old rows as kept never move, whatever the decay; those that ship are aligned."""
    stream = make_stream(((0, 1), (2, 3), (4, 5)))
    learner = make_learner(
        "slca", stream, config={"schedule": {"epochs": 2, "batch_size": 4, "weight_decay": 0.1}}
    )
    heads = []
    for task in stream.tasks:
        learn_task(learner, task, stream.classes)
        heads.append(learner.run.state()["head_weight"])
    for former, later in pairwise(heads):
        assert torch.equal(later[: len(former)], former)
    assert torch.equal(learner.run.part(0)["head_weight"], heads[0])
    for task in (1, 2):
        ships = learner.run.part(task)["head_weight"]
        assert ((ships - heads[task]).abs().amax(dim=1) > 0).all()


def test_what_is_kept_per_class_is_a_mean_a_covariance_and_its_row(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (0, 1)), protocol="dil")
    learner = make_learner("slca", stream)
    learn_stream(learner, stream)
    kept = {name: tuple(tensor.shape) for name, tensor in learner.run.state().items()}
    assert kept == {
        "means": (4, 192), "covariances": (4, 192, 192), "tasks": (4,),
        "head_weight": (4, 192), "head_bias": (4,),
    }  # fmt: skip
    assert learner.run.state()["tasks"].tolist() == [0, 0, 1, 1]


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(MethodError, match=r"above 0, .* Raise it"):
        SLCAConfig(slow_rate=0.0)

"""InfLoRA: a subspace that former inputs do not reach, and how it is found."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.edgecl.support import bank
from torch import Tensor

from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods.inflora import NORM, InfLoRAConfig, directions, widened
from edgecl.session import learn_task
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
BLOCKS, D, K = 2, 12, 3


def moments_of(inputs: Tensor) -> Tensor:
    return inputs @ inputs.mT / inputs.shape[-1]  # l d n -> l d d


@pytest.fixture
def moments() -> Tensor:
    spread = torch.linspace(3, 0.1, D, dtype=torch.float64)
    return moments_of(spread[:, None] * bank(BLOCKS, D, 40))


@pytest.fixture
def basis() -> Tensor:
    return torch.linalg.qr(bank(BLOCKS, D, K, seed=1)).Q


def assert_orthonormal(columns: Tensor) -> None:
    count = columns.shape[-1]
    torch.testing.assert_close(
        columns.mT @ columns, torch.eye(count).expand(BLOCKS, -1, -1).double()
    )


def test_the_way_down_has_the_leading_directions_outside_the_subspace(
    moments: Tensor, basis: Tensor
) -> None:
    a = directions(moments, basis, 4)
    assert_orthonormal(torch.cat([basis, a], dim=-1))
    outside = torch.eye(D).double() - basis @ basis.mT
    left = torch.linalg.eigh(outside @ moments @ moments @ outside).eigenvectors.flip(-1)[..., :4]
    torch.testing.assert_close(a @ a.mT, left @ left.mT)
    first = directions(moments, basis[..., :0], 4)  # of the first task: the principal directions
    leading = torch.linalg.eigh(moments).eigenvectors.flip(-1)[..., :4]
    torch.testing.assert_close(first @ first.mT, leading @ leading.mT)


def test_where_no_direction_is_left_the_way_down_is_zero(basis: Tensor) -> None:
    inside = moments_of(basis @ bank(BLOCKS, K, 40))
    inside[1] += moments_of(bank(1, D, 1))[0]  # one direction more in the second block
    a = directions(inside, basis, 2)
    assert a[0].abs().max() == 0
    assert a[1].norm(dim=0).tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_the_subspace_gets_as_few_directions_as_hold_the_share(
    moments: Tensor, basis: Tensor, share: float
) -> None:
    grown = widened(moments, basis, share)
    for block in range(BLOCKS):
        own = grown[block][:, grown[block].norm(dim=0) > 0]
        held = [
            (own[:, :count].T @ moments[block]).square().sum() / moments[block].square().sum()
            for count in (len(own.T) - 1, len(own.T))
        ]
        assert held[1] >= share - 1e-9
        assert held[0] < share or own.shape[1] == K, "one direction less holds too little"
        torch.testing.assert_close(own.T @ own, torch.eye(own.shape[1]).double())
        torch.testing.assert_close(own @ own.T @ basis[block], basis[block])
    assert torch.equal(widened(moments, grown, share), grown), "nothing is missing any more"


def test_what_a_task_learns_leaves_the_inputs_of_former_tasks_alone(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """If the subspace holds all of their energy, their features stay as they were."""
    stream = make_stream(((0, 1), (2, 3)))
    moved = {}
    for energy in (0.5, 1.0):
        config = {
            "energy": energy, "schedule": {"epochs": 4, "batch_size": 4, "lr": 0.01},
        }  # fmt: skip
        learner = make_learner("inflora", stream, out=str(energy), config=config)
        former = learner.load(stream.tasks[0].train, "").images
        found = []
        for index, task in enumerate(stream.tasks):
            learn_task(learner, task, stream.classes, [t.test for t in stream.tasks[: index + 1]])
            found.append(learner.predict(former).feature)
            basis = learner.run.state()["inputs"]
            if not index:
                known = basis
        a = learner.learned()["lora_a"][1]
        assert (known.mT @ a.double()).abs().max() < 1e-5
        assert learner.learned()["lora_v_b"][1].abs().max() > 0
        assert a.norm(dim=-2).max() == pytest.approx(NORM, rel=1e-4)
        moved[energy] = (found[1] - found[0]).abs().max().item()
    assert moved[1.0] < 1e-3
    assert moved[0.5] > 20 * moved[1.0]


def test_the_share_rises_over_the_tasks_and_stays() -> None:
    config = InfLoRAConfig(energy=0.9, last_energy=1.0, tasks=4)
    shares = [config.share(task) for task in (0, 1, 3, 4, 9)]
    assert shares == pytest.approx([0.9, 0.925, 0.975, 1.0, 1.0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "inflora.rank must be at least 1, got 0. Raise it"),
        ({"energy": 1.0, "last_energy": 0.9}, "rise, got 1.0 and 0.9. Use 0.95 and 1."),
        ({"rank": 500}, "must be at most 192, the width of the backbone, got 500. Lower it."),
    ],
)
def test_a_configuration_that_cannot_be(
    make_learner: MakeLearner, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(MethodError, match=message):
        make_learner("inflora", config=wrong)

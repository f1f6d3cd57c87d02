"""RanPAC: random features, and how the weight of the ridge is chosen."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Features
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.random_features import WEIGHTS, RandomFeatures
from edgecl.program.classifiers.ridge import IMAGES, Rows, Sums, one_hot
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
D, COUNT, CLASSES = 12, 90, 6
WEIGHT = 0.3


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 30 * torch.randn(COUNT, D, generator=generator)
    return features, torch.arange(COUNT) % CLASSES


def joint(features: Tensor, classes: Tensor, weight: float = WEIGHT) -> Tensor:
    """Return the head of all images at once, by plain linear algebra."""
    h, y = features.double(), F.one_hot(classes).double()
    return torch.linalg.solve(h.T @ h + weight * torch.eye(h.shape[1]).double(), h.T @ y).T


def test_random_features_by_hand() -> None:
    classifier = RandomFeatures(5, "plain", D, 3)
    projection = classifier.declare()["projection"].generated.make((D, 5))  # type: ignore[union-attr]
    feature = torch.randn(4, D)
    features = Features(feature, torch.zeros_like(feature))
    encoded = Encoded(features, Match(torch.zeros(4, 1).long(), torch.ones(4, 1)), None)
    learned = {
        "projection": projection, "head_weight": torch.randn(3, 5), "head_scale": torch.rand(3),
    }  # fmt: skip
    h = np.maximum(feature.numpy() @ projection.numpy(), 0)
    want = h @ learned["head_weight"].numpy().T * learned["head_scale"].numpy()
    np.testing.assert_allclose(classifier.scores(encoded, learned).numpy(), want, rtol=1e-4)


def test_ranpac_chooses_its_weight_on_a_fifth_of_the_task(data: tuple[Tensor, Tensor]) -> None:
    _, classes = data
    classifier = RandomFeatures(D, "plain", D, 0)
    seen: set[float] = set()
    for noise in (0.0, 300.0):
        rows = 30 * one_hot(classes, D).float()
        rows = rows + noise * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        total = Sums.of(rows, classes, CLASSES)
        generator = torch.Generator().manual_seed(1)
        weight = classifier.choose(rows, classes, total, generator)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
        rest, fifth = order[:72], order[72:]
        errors = {
            each: (
                rows[fifth].double() @ joint(rows[rest], classes[rest], each).T
                - one_hot(classes[fifth], CLASSES)
            )
            .square()
            .mean()
            for each in WEIGHTS
        }
        assert errors[weight] <= min(errors.values()) * (1 + 1e-6)
        seen.add(weight)
    assert len(seen) == 2, "noise asks for another weight"


def test_one_image_leaves_nothing_to_choose_by() -> None:
    classifier = RandomFeatures(4, "plain", 4, 0)
    total = Sums.of(torch.ones(1, 4), torch.zeros(1).long(), 1)
    generator = torch.Generator()
    assert classifier.choose(torch.ones(1, 4), torch.zeros(1).long(), total, generator) == 1.0


@pytest.mark.parametrize("noise", [3.0, 300.0])
def test_a_task_of_more_images_than_m_is_chosen_for_by_sums(noise: float) -> None:
    classifier, classes = RandomFeatures(D, "plain", D, 0), torch.arange(COUNT) % CLASSES
    rows = 30 * one_hot(classes, D).float()
    rows = rows + noise * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    generator, none = torch.Generator().manual_seed(1), Sums.zeros(D, CLASSES)
    want = classifier.choose(rows, classes, none, generator)
    part = classifier.deal(classes, torch.Generator().manual_seed(1))
    assert part.bincount().tolist() == [72, 18]
    seen = Rows(rows, classes, CLASSES, lambda some: some)
    sums = seen.sums(part, D)
    assert classifier.choose_by_parts(seen, part, sums, sums[0].plus(sums[1])) == want


@pytest.mark.parametrize(("weight", "size"), [("choose", 8), ("gcv", 8), ("gcv", 64)])
def test_a_run_in_parts_is_a_run_at_once(
    make_learner: MakeLearner, make_stream: MakeStream, weight: str, size: int
) -> None:
    stream = make_stream(((0, 1), (2,)), train=6, test=1)
    config = {"first_session": "none", "size": size, "weight": weight}
    learner = make_learner("ranpac", stream, config=config)
    learn_stream(learner, stream)
    learned = learner.learned()
    every = torch.cat([
        learner.encoder.frozen(learner.load(task.train, "").images).cls for task in stream.tasks
    ])
    h = (every @ learned["projection"]).relu()
    classes = torch.tensor([label for task in stream.tasks for label in task.train.labels])
    head = learned["head_weight"].double() * learned["head_scale"].double()[:, None]
    near = [
        torch.allclose(
            head, joint(h, classes, each), rtol=1e-3, atol=1e-4 * float(head.abs().max())
        )
        for each in WEIGHTS
    ]
    assert any(near), "the head is that of a candidate"


def test_the_projection_is_in_no_part_and_of_the_seed(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("ranpac", make_stream())
    learn_stream(learner, make_stream())
    assert all("projection" not in part for part in learner.run.parts())
    projection = learner.learned()["projection"]
    assert projection.shape == (192, 64)
    other = make_learner("ranpac", out="other", config={"seed": 1}).learned()["projection"]
    assert not torch.equal(other, projection)


def fitted(classifier: RandomFeatures, data: tuple[Tensor, Tensor]) -> list[FitResult]:
    """Learn three tasks of two classes each."""
    features, classes = data
    made = classifier.declare()["projection"].generated
    assert made is not None
    learned = {"projection": made.make((D, classifier.size))}
    results, rows = [FitResult()], ()
    for task in range(3):
        own = torch.nonzero(classes // 2 == task).flatten()
        rows = (*rows, f"class {2 * task}", f"class {2 * task + 1}")
        results.append(
            classifier.fit(
                TaskContext(
                    index=task, classes=2, class_rows=rows, labels=classes[own] % 2, plain=None,
                    features={"feature": features[own]}, learned=learned, state=results[-1].state,
                    generator=torch.Generator().manual_seed(0),
                )
            )
        )  # fmt: skip
    return results[1:]


def test_a_truncated_spectrum_grows_with_the_images(data: tuple[Tensor, Tensor]) -> None:
    """30 images a task: 75 % of them, and of the 64 features, are kept; each task cuts again."""
    results = fitted(RandomFeatures(64, "plain", D, 3, truncate=25), data)
    ranks = [int(torch.linalg.matrix_rank(each.state["gram"])) for each in results]
    assert ranks == [round(0.75 * 30), round(0.75 * 60), round(0.75 * 64)]
    assert [int(each.state[IMAGES]) for each in results] == [30, 60, 90]
    assert results[-1].part["head_weight"].shape == (CLASSES, 64)


def test_without_truncation_it_is_ranpac(data: tuple[Tensor, Tensor]) -> None:
    plain = fitted(RandomFeatures(8, "plain", D, 3), data)
    same = fitted(RandomFeatures(8, "plain", D, 3, truncate=0), data)
    for one, other in zip(plain, same, strict=True):
        assert {name: t.tolist() for name, t in one.part.items()} == {
            name: t.tolist() for name, t in other.part.items()
        }
    # Nothing to cut: 1 % of 8 features is none of them, and what is left is the joint solution.
    whole = fitted(RandomFeatures(8, "plain", D, 3, truncate=1), data)[-1]
    made = RandomFeatures(8, "plain", D, 3).declare()["projection"].generated
    assert made is not None
    want = joint((data[0] @ made.make((D, 8))).relu(), data[1], 1e-8)
    found = whole.part["head_weight"] * whole.part["head_scale"][:, None]
    torch.testing.assert_close(found.double(), want, rtol=1e-4, atol=1e-8)


def test_a_truncated_run_learns_and_continues(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=6)
    learner = make_learner("ranpac", stream, config={"truncate": 25, "first_session": "none"})
    learn_stream(learner, stream)
    state = learner.run.state()
    assert set(state) == {"gram", "moments", IMAGES}
    assert int(state[IMAGES]) == 24


@pytest.mark.parametrize("config", [{"truncate": 100}, {"truncate": 25, "weight": "gcv"}])
def test_a_spectrum_is_not_cut_whole_and_leaves_no_lambda(
    config: dict[str, object], make_learner: MakeLearner
) -> None:
    with pytest.raises(MethodError, match="Use 25 with weight=choose, or 0"):
        make_learner("ranpac", config=config)


def test_no_lambda_is_used_in_silence(data: tuple[Tensor, Tensor]) -> None:
    context = TaskContext(
        index=0, classes=6, class_rows=tuple("abcdef"), labels=data[1], plain=None,
        features={"feature": data[0]}, learned={}, state={}, generator=torch.Generator(),
        weight=0.5,
    )  # fmt: skip
    with pytest.raises(MethodError, match="Leave out `--weight`"):
        RandomFeatures(64, "plain", D, 3, truncate=25).fit(context)

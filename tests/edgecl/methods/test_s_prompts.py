"""S-Prompts: centroids by hand, the matched task's rows alone, and domains in a stream."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from edgecl.backbones import Features
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods.s_prompts import REFUSED, MatchedHeads, SPromptsConfig
from edgecl.program.classifiers import Encoded
from edgecl.program.matchers import Match, NearestCentroid
from edgecl.program.statistics import k_means
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_k_means_finds_the_means_of_far_blobs() -> None:
    means = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    owner = torch.arange(3).repeat_interleave(20)
    points = means[owner] + torch.randn(60, 2, generator=generator())
    found = k_means(points, 3, generator(1))
    want = torch.stack([points[owner == row].mean(dim=0) for row in range(3)])
    order = torch.cdist(want, found).argmin(dim=1)
    torch.testing.assert_close(found[order], want)
    assert found.dtype == torch.float32


def test_no_point_of_k_means_is_nearer_to_another_centre_and_each_centre_is_its_mean() -> None:
    points = torch.randn(80, 4, generator=generator())
    found = k_means(points, 5, generator(1))
    owner = torch.cdist(points, found).argmin(dim=1)
    for row in range(5):
        torch.testing.assert_close(found[row], points[owner == row].mean(dim=0))


@pytest.mark.parametrize("points", [1, 2, 5])
def test_k_means_of_few_points_repeats_them(points: int) -> None:
    rows = torch.randn(points, 3, generator=generator())
    found = k_means(rows, 5, generator(1))
    assert found.shape == (5, 3)
    assert torch.cdist(found, rows).amin(dim=1).max() < 1e-6
    assert torch.cdist(rows, found).amin(dim=1).max() < 1e-6


def test_k_means_depends_on_its_generator_alone() -> None:
    points = torch.randn(40, 3, generator=generator())
    torch.manual_seed(1)
    one = k_means(points, 4, generator(1), starts=1)
    torch.manual_seed(2)
    assert torch.equal(k_means(points, 4, generator(1), starts=1), one)
    others = [k_means(points, 4, generator(seed), starts=1) for seed in range(2, 8)]
    assert any(not torch.equal(other, one) for other in others)


def test_the_nearest_centroid_is_by_absolute_differences_to_the_query_of_length_one() -> None:
    centroids = torch.randn(3, 5, 8, generator=generator()) * 0.3
    query = torch.randn(20, 8, generator=generator(1))
    match = NearestCentroid(8, 5)(7 * query, {"centroids": centroids})
    for row, unit in enumerate(F.normalize(query, dim=-1)):
        distance = [min(float((unit - c).abs().sum()) for c in task) for task in centroids]
        assert match.index[row].tolist() == [int(np.argmin(distance))]
        assert match.score[row].item() == pytest.approx(-min(distance), rel=1e-5)
    assert len(set(match.index.flatten().tolist())) > 1


def test_it_is_not_the_nearest_by_the_euclidean_distance() -> None:
    query = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    centroids = torch.tensor([[[1.0, 0.4, 0.4, 0.4]], [[0.0, 0.0, 0.0, 0.0]]])
    match = NearestCentroid(4, 1)(query, {"centroids": centroids})  # 1.2 and 1.0; 0.69 and 1.0
    assert match.index.tolist() == [[1]]


def test_rows_of_other_tasks_are_refused_whatever_their_logits() -> None:
    learned = {
        "head_weight": torch.tensor([[1.0], [-3000.0], [9000.0], [2.0]]),
        "head_bias": torch.zeros(4),
        "task_rows": torch.tensor([2.0, 2.0]),
    }
    features = Features(torch.ones(2, 1), torch.zeros(2, 1))
    match = Match(torch.tensor([[0], [1]]), torch.zeros(2, 1))
    scores = MatchedHeads(1, on="cls").scores(Encoded(None, match, features), learned)
    assert scores.tolist() == [[1.0, -3000.0, REFUSED, REFUSED], [REFUSED, REFUSED, 9000.0, 2.0]]
    assert torch.tensor(REFUSED).half().isfinite()


def test_a_domain_is_matched_and_classified_by_its_own_rows(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """The classes come back in a second domain, which owns rows of its own."""
    stream = make_stream(((0, 3), (0, 3)), train=8, test=6, protocol="dil")
    learner = make_learner(
        "s-prompts", stream, config={"schedule": {"epochs": 12, "batch_size": 4}}
    )
    assert learn_stream(learner, stream).a_last == 1.0
    assert learner.learned()["task_rows"].tolist() == [2, 2]
    for domain, task in enumerate(stream.tasks):
        outputs = learner.predict(learner.load(task.test, "").images)
        assert outputs.match.flatten().tolist() == [domain] * 12
        rows = outputs.scores.argmax(dim=1)
        assert set(rows.tolist()) <= {2 * domain, 2 * domain + 1}
        assert (outputs.scores > REFUSED).sum(dim=1).tolist() == [2] * 12


def test_training_uses_the_task_s_own_prompt_whatever_is_matched(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Two tasks of the same images: the older centroids win, yet the newer prompt learns."""
    stream = make_stream(((0, 1), (0, 1)), train=6)
    learner = make_learner("s-prompts", stream)
    learn_stream(learner, stream)
    own = learner.program.match(torch.zeros(3, 192), learner.learned(), training=True)
    assert own.index.tolist() == [[1]] * 3
    fresh = make_learner("s-prompts", stream, out="fresh", config={"schedule": {"epochs": 0}})
    learn_stream(fresh, stream)
    assert not torch.equal(learner.run.part(1)["prompts"], fresh.run.part(1)["prompts"])


def test_the_prompts_have_no_position(make_learner: MakeLearner) -> None:
    injector = make_learner("s-prompts").method.program.injector
    (item,) = injector.sites({"tokens": torch.zeros(1, 10, 192)})
    assert (item.positioned, item.block, item.keep) == (False, 0, True)


@pytest.mark.parametrize("field", ["length", "centroids"])
def test_a_size_of_zero_is_refused(field: str) -> None:
    with pytest.raises(MethodError, match=r"at least 1.* Raise it"):
        SPromptsConfig(**{field: 0})

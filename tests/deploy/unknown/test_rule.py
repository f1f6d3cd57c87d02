from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl_deploy.enrol import means
from edgecl_deploy.errors import DeployError, OptionError
from edgecl_deploy.format import ALPHAS
from edgecl_deploy.unknown.own import left_out, unit
from edgecl_deploy.unknown.rule import Judged, Part, Reference, checked_alpha
from edgecl_deploy.unknown.table import ORDER, POOL, Table, ranks

WIDTH = 6
AXES = np.eye(WIDTH)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def part(*scores: np.ndarray, names: str = "", **fields: object) -> Part:
    """Return one part whose class k has the k-th axis as its row."""
    names = names or "abcdef"[: len(scores)]
    values = {"table": Table.of(scores), "classes": tuple(names), "live": [True] * len(names)}
    return Part(**{**values, "rows": AXES[: len(names)], "columns": (0, WIDTH), **fields})


def image(*cosines: float) -> np.ndarray:
    """Return an image with these cosines with the first axes."""
    rest = 1 - sum(each**2 for each in cosines)
    return np.array([[*cosines, *[0.0] * (WIDTH - 1 - len(cosines)), rest**0.5]], np.float64)


def judge(parts: list[Part], x: np.ndarray, alpha: float = 0.05) -> Judged:
    names = list(dict.fromkeys(name for each in parts for name in each.classes))
    return Reference.of(names, parts).judge(x, alpha)


def exact(scores: np.ndarray, score: float) -> Fraction:
    """Return the p-value by its definition."""
    return Fraction(1 + int((scores <= np.float32(score)).sum()), len(scores) + 1)


@pytest.mark.parametrize("n", [1, 2, 19, 64, 65, 1_000, 100_000])
def test_a_p_value_is_the_definition_or_above_it_by_the_next_rank_that_is_kept(
    n: int, rng: np.random.Generator
) -> None:
    scores = np.sort(rng.uniform(0, 0.9, n).astype(np.float32))
    alpha = 0.05 if n >= 19 else 0.5  # below 1 / (n + 1) a class alone decides nothing
    kept = ranks(np.array([n]))[0]
    assert (np.diff(kept) > 0).all()
    assert kept[min(n, ORDER) - 1] == n
    for score in [-0.2, 0.95, *rng.uniform(0, 0.9, 40), *scores[[0, n // 20, n // 2, -1]]]:
        found = judge([part(scores)], image(float(score)), alpha)
        truth, p = exact(scores, float(score)), found.p[0, 0]
        assert p >= float(truth)
        assert p == float(truth) or n > ORDER
        gap = 0.15 * float(truth) + 30 / n if n > ORDER else 0  # of cubic ranks, 1 in 64
        assert p - float(truth) <= gap
        assert found.inside[0, 0] == (p > alpha)
        assert not found.pooled[0, 0]


def test_p_and_alpha_are_compared_as_whole_numbers() -> None:
    for n, alpha in [(19, 0.05), (99, 0.01), (9, 0.1), (6, 1 / 7), (19, 0.15)]:
        scores = np.linspace(0.5, 0.9, n)
        least = judge([part(scores)], image(0.1), alpha)
        assert least.p[0, 0] == 1 / (n + 1)
        assert not least.inside[0, 0] or round(alpha * 1e6) * (n + 1) < 1e6
        above = judge([part(scores)], image(0.5), alpha)
        assert above.inside[0, 0] == (Fraction(2, n + 1) > Fraction(round(alpha * 1e6), 10**6))
    assert not judge([part(np.linspace(0.5, 0.9, 19))], image(0.51), 0.15).pooled[0, 0]
    three = judge([part(np.linspace(0.5, 0.9, 19))], image(0.53), 0.15)  # p = 3 / 20 as a float
    assert (three.p[0, 0], three.inside[0, 0]) == (0.15, False)  # where 0.15 < 3 / 20


@settings(max_examples=10, deadline=None)
@given(n=st.integers(19, 300), seed=st.integers(0, 2**32 - 1))
def test_images_that_are_exchangeable_are_left_out_as_often_as_alpha_allows(
    n: int, seed: int
) -> None:
    """Vovk 2012, proposition 1: P(p <= t) is at most t, for every t."""
    rng = np.random.default_rng(seed)
    own = rng.beta(5, 2, (40, n + 40)).astype(np.float32)  # 40 calibrations, 40 images each
    found = np.concatenate(
        [judge([part(row[:n])], np.concatenate([image(float(s)) for s in row[n:]])).p[:, 0]
         for row in own]
    )  # fmt: skip
    levels = np.array([0.05, 0.1, 0.2, 0.5])
    shares = (found[:, None] <= levels).mean(axis=0)
    spread = np.sqrt(levels * (1 - levels) * (1 / 40 / n + 1 / 1600))
    assert (shares <= levels + 5 * spread).all()


def test_p_values_of_images_that_were_held_out_are_no_smaller_than_uniform(
    rng: np.random.Generator,
) -> None:
    """One image of each of many classes, whose own images are scored without themselves."""
    draws, width, images = 2000, 6, 30
    found = []
    for _ in range(draws):
        centre = rng.normal(0, 1, width)
        own = centre + rng.normal(0, 0.5, (images + 1, width))
        own, held_out = own[:-1], own[-1:]
        table = Table.of([left_out(own, own.sum(axis=0))])
        alone = Part(table, ("a",), (True,), own.mean(axis=0)[None], (0, width))
        found.append(judge([alone], held_out).p[0, 0])
    ordered = np.sort(found)
    # Kolmogorov and Smirnov, one-sided: how far the shares are above the levels
    above = np.arange(1, draws + 1) / draws - ordered
    assert above.max() <= 1.36 / draws**0.5
    assert 0.4 < ordered.mean() < 0.6  # nor is every image called typical


@pytest.mark.slow
def test_p_values_are_those_of_another_library(rng: np.random.Generator) -> None:
    """By pip install crepes (0.9), which is not in the development environment."""
    crepes = pytest.importorskip("crepes", reason="crepes is not installed: pip install crepes")
    scores = [rng.beta(5, 2, n).astype(np.float32) for n in (19, 40, 64)]
    bins = np.repeat(np.arange(3), [len(each) for each in scores])
    theirs = crepes.ConformalClassifier().fit(1 - np.concatenate(scores), bins=bins)
    wanted = [*rng.uniform(0, 0.57, 200), *scores[0][scores[0] < 0.57][:5]]
    images = np.concatenate([image(*[float(each)] * 3) for each in wanted])
    cosines = Reference.of("abc", [part(*scores)]).cosines(images)
    for label in range(3):
        p = theirs.predict_p(
            (1 - cosines[:, label])[:, None], bins=np.full(len(images), label), smoothing=False
        )
        np.testing.assert_array_equal(judge([part(*scores)], images).p[:, label], p[:, 0])


def test_a_class_of_few_images_is_judged_by_distances_from_the_mean(
    rng: np.random.Generator,
) -> None:
    many = [rng.normal(0.7, 0.02, 30) for _ in range(3)]
    few = rng.normal(0.4, 0.02, 4)
    parts = [part(*many, few)]
    low = judge(parts, image(0.0, 0.0, 0.0, 0.2))
    assert low.pooled.tolist() == [[False, False, False, True]]
    assert not low.inside.any()
    assert judge(parts, image(0.0, 0.0, 0.0, 0.4)).inside.tolist() == [[False, False, False, True]]
    distances = np.concatenate([(s - s.mean()) * len(s) / (len(s) - 1) for s in (*many, few)])
    score = np.float32(0.39)
    p = judge(parts, image(0.0, 0.0, 0.0, 0.39)).p[0, 3]
    truth = (1 + (distances <= score - few.mean()).sum()) / (len(distances) + 1)
    assert p == pytest.approx(truth, abs=1.5 / 95)
    assert [low.basis(0, label) for label in (0, 3)] == ["class", "pooled"]
    assert judge(parts, image(0.7), alpha=0.01).pooled.all()  # 31 < 99: what is few is up to alpha


def test_pools_take_from_the_task_before_and_are_never_too_sure(rng: np.random.Generator) -> None:
    first = Table.of([rng.normal(0.6, 0.1, 1000)])
    assert len(first.residual) == POOL
    levels = [1, 10, 30]
    for level in levels:  # the j-th of 256 of them has at most j / 257 of all at or below it
        share = (rng.normal(0, 0.1, 10**5) <= first.residual[level - 1]).mean()
        assert share == pytest.approx(level / 257, abs=0.02)
    second = Table.of([np.array([0.5])], [first])
    assert second.residual.tolist() == first.residual.tolist()
    third = Table.of([np.array([]), np.array([])], [first, second])
    assert third.centre.tolist() == pytest.approx([(first.centre[0] + 0.5) / 2] * 2)
    assert Table.of([rng.normal(0.6, 0.1, 300)], [first]).residual.max() != first.residual.max()


def test_a_class_alone_with_one_image_is_never_left_out() -> None:
    found = judge([part(np.array([]))], image(-0.9))
    assert (found.p[0, 0], found.inside[0, 0], found.basis(0, 0)) == (1.0, True, "pooled")


def test_a_class_of_two_rows_is_as_typical_as_its_better_row(rng: np.random.Generator) -> None:
    scores = [rng.normal(0.7, 0.05, 30), rng.normal(0.3, 0.05, 30), rng.normal(0.5, 0.05, 30)]
    x = np.concatenate([image(a, b, c) for a, b, c in rng.uniform(-0.5, 0.5, (50, 3))])
    apart = judge([part(*scores)], x)
    together = judge([part(*scores, names="aba")], x)
    assert together.p.tolist() == np.column_stack(
        [np.maximum(apart.p[:, 0], apart.p[:, 2]), apart.p[:, 1]]
    ).tolist()  # fmt: skip
    assert (together.inside[:, 0] == (apart.inside[:, 0] | apart.inside[:, 2])).all()
    dead = judge([part(*scores, names="aba", live=[True, True, False])], x)
    assert dead.p.tolist() == apart.p[:, :2].tolist()


def test_more_classes_leave_p_values_bitwise_as_they_were(rng: np.random.Generator) -> None:
    def task(names: str) -> Part:
        count = rng.integers(1, 90, len(names))
        scores = [rng.normal(0.5, 0.1, n) for n in count]
        return part(*scores, names=names, rows=rng.normal(size=(len(names), WIDTH)))

    first, second = task("ab"), task("cdef")
    x = rng.normal(size=(200, WIDTH)).astype(np.float32)
    alone, more = judge([first], x), judge([first, second], x)
    assert np.array_equal(alone.p, more.p[:, :2])
    assert np.array_equal(alone.pooled, more.pooled[:, :2])
    one_by_one = [judge([first, second], row[None]).p[0] for row in x]
    assert np.array_equal(np.array(one_by_one), more.p)


def test_an_image_is_so_far_from_what_is_usual_of_its_class() -> None:
    one, other = np.full(30, 0.8), np.full(30, 0.6)
    parts = [part(one, other, names="aa"), part(other, names="b", rows=AXES[2:3])]
    reference = Reference.of("ab", parts)
    (x,) = image(0.1, 0.7)
    np.testing.assert_allclose(reference.away(x, 0), x - 0.6 * AXES[1], atol=1e-7)  # its best row
    np.testing.assert_allclose(reference.away(3 * x, 1), x - 0.6 * AXES[2], atol=1e-7)


def test_an_image_without_numbers_is_unknown() -> None:
    found = judge([part(np.linspace(0.5, 0.9, 19))], np.full((1, WIDTH), np.nan))
    assert (found.p[0, 0], found.inside[0, 0]) == (0.05, False)


def test_leaving_an_image_out_is_a_mean_without_it(rng: np.random.Generator) -> None:
    features = rng.normal(size=(7, WIDTH))
    found = left_out(features, features.sum(axis=0))
    others = [np.delete(features, i, axis=0).mean(axis=0) for i in range(7)]
    wanted = [
        float(unit(f[None])[0] @ unit(o[None])[0]) for f, o in zip(features, others, strict=True)
    ]
    assert found == pytest.approx(wanted, rel=1e-12)
    assert means.left_out(features).tolist() == found.tolist()


def test_a_table_is_read_as_it_was_written(rng: np.random.Generator) -> None:
    table = Table.of([rng.normal(size=n) for n in (1, 80, 5)], mean=rng.normal(size=(3, WIDTH)))
    again = Table.from_tensors(table.to_tensors(), 3)
    assert again.to_tensors().keys() == table.to_tensors().keys()
    for name, array in table.to_tensors().items():
        assert np.array_equal(array, again.to_tensors()[name])


@pytest.mark.parametrize(
    "change",
    [
        {"count": None},
        {"count": np.zeros(3, np.int64)},
        {"count": np.array([-1, 5, 5], np.int32)},
        {"count": np.array([5, 5, 64], np.int32)},
        {"order": np.zeros((3, 63), np.float32)},
        {"order": np.full((3, 64), np.nan, np.float32)},
        {"order": np.tile(np.arange(64, 0, -1, dtype=np.float32), (3, 1))},
        {"centre": np.array([0, 0, np.inf], np.float32)},
        {"residual": np.zeros((2, 2), np.float32)},
        {"residual": np.zeros(POOL + 1, np.float32)},
        {"residual": np.array([1, 0], np.float32)},
        {"mean": np.zeros((2, WIDTH), np.float16)},
        {"mean": np.full((3, WIDTH), np.inf, np.float16)},
    ],
)
def test_scores_that_no_images_give_are_refused(
    change: dict[str, np.ndarray | None], rng: np.random.Generator
) -> None:
    good = Table.of([rng.normal(size=5) for _ in range(3)], mean=np.zeros((3, WIDTH)))
    tensors = {k: v for k, v in {**good.to_tensors(), **change}.items() if v is not None}
    with pytest.raises(DeployError, match="Export the task again"):
        Table.from_tensors(tensors, 3)


@pytest.mark.parametrize("alpha", [0.0, -1.0, ALPHAS[0] / 2, ALPHAS[1] * 1.01, float("nan")])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(OptionError, match="is usual"):
        checked_alpha(alpha)
    assert checked_alpha(ALPHAS[1]) == ALPHAS[1]

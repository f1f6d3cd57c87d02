"""The subspace of a class: against singular vectors, left out by its definition, stored, judged."""

from dataclasses import replace

import numpy as np
import pytest

from edgecl_deploy.errors import DeployError
from edgecl_deploy.format import OWN_SUBSPACE, OwnScores, read_tensors, write_tensors
from edgecl_deploy.manifest.fields import Fields
from edgecl_deploy.unknown.own import (
    DIRECTIONS,
    directions,
    in_subspace,
    left_out,
    left_out_of_subspace,
    size_of,
    unit,
)
from edgecl_deploy.unknown.packs import with_classes
from edgecl_deploy.unknown.rule import Part, Reference
from edgecl_deploy.unknown.table import SIZE, Table

WIDTH = 24


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def views(rng: np.random.Generator, images: int, modes: int = 3) -> np.ndarray:
    """Return images of a class that looks in so many ways, float32 [n, w]."""
    seeds = rng.normal(size=(modes, WIDTH))
    found = seeds[rng.integers(modes, size=images)] + 0.3 * rng.normal(size=(images, WIDTH))
    return (found * rng.uniform(0.5, 2, (images, 1))).astype(np.float32)


def table_of(classes: list[np.ndarray], *former: Table) -> Table:
    own = [left_out(x, x.sum(axis=0)) if len(x) > 1 else np.empty(0) for x in classes]
    return Table.of(own, former).with_subspaces(classes, former)


def part_of(names: str, classes: list[np.ndarray], table: Table, live: bool = True) -> Part:
    rows = np.stack([x.mean(axis=0) for x in classes])
    return Part(table, tuple(names), [live] * len(names), rows, (0, WIDTH))


@pytest.mark.parametrize("images", [2, 5, 20, 60])  # fewer than numbers, and more; a third
def test_it_is_spanned_by_the_first_singular_vectors(images: int, rng: np.random.Generator) -> None:
    x = views(rng, images)
    found = directions(x)
    assert (found.dtype, found.shape) == (np.int8, (DIRECTIONS, WIDTH))
    size = {2: 1, 5: 4, 20: 6, 60: DIRECTIONS}[images]
    assert np.abs(found[:size]).max(axis=1).tolist() == [127] * size
    assert not found[size:].any()
    vectors = np.linalg.svd(unit(x), full_matrices=False)[2][:size]
    assert np.abs((unit(found[:size]) * vectors).sum(axis=1)) == pytest.approx(1, abs=1e-3)
    for test in (x, rng.normal(size=(30, WIDTH))):
        exact = np.linalg.norm(unit(test) @ vectors.T, axis=1)
        assert in_subspace(test, found) == pytest.approx(exact, abs=0.01)
    assert in_subspace(-2 * x, found) == pytest.approx(in_subspace(x, found))


def test_one_picture_many_times_is_one_direction(rng: np.random.Generator) -> None:
    x = np.repeat(views(rng, 1), 5, axis=0)
    assert directions(x).any(axis=1).sum() == 1
    assert left_out_of_subspace(x) == pytest.approx(1, abs=1e-4)
    assert not directions(np.zeros_like(x)).any()


@pytest.mark.parametrize(("images", "parts"), [(2, 2), (6, 6), (40, 16)])
def test_an_image_is_judged_by_images_without_it(
    images: int, parts: int, rng: np.random.Generator
) -> None:
    x = views(rng, images)
    found = left_out_of_subspace(x)
    for at in range(images):
        others = np.arange(images) % parts != at % parts
        without = directions(x[others], size_of(images))
        assert found[at] == pytest.approx(in_subspace(x[at : at + 1], without)[0])


def test_what_is_stored_is_read_again_and_what_is_damaged_is_named(
    rng: np.random.Generator,
) -> None:
    table = table_of([views(rng, 7), views(rng, 1), views(rng, 5)])
    assert table.angles is not None
    assert table.directions is not None
    assert table.angles.count.tolist() == [7, 0, 5]
    assert table.directions.any(axis=2).sum(axis=1).tolist() == [4, 0, 4]
    assert table.directions.shape == (3, 4, WIDTH)
    stored = read_tensors(write_tensors(table.to_tensors()))
    again = Table.from_tensors(stored, 3).to_tensors()
    assert again.keys() == stored.keys()
    assert all(np.array_equal(again[name], stored[name]) for name in stored)
    assert Table.from_tensors(stored, 3, spaces=False).angles is None
    for name, wrong in (
        ("directions", stored["directions"].astype(np.float32)),
        ("directions", stored["directions"][0]),
        ("directions", np.zeros((3, SIZE + 1, WIDTH), np.int8)),
        ("subspace_order", stored["subspace_order"][:, ::-1]),
        ("subspace_count", None),
    ):
        damaged = {**stored, name: wrong} if wrong is not None else dict(stored)
        if wrong is None:
            del damaged[name]
        with pytest.raises(DeployError, match="edgecl export pack"):
            Table.from_tensors(damaged, 3)


def test_a_second_kind_that_is_not_known_counts_as_absent() -> None:
    own = OwnScores((0, 3), "prototypes", "0" * 64, also=OWN_SUBSPACE)
    assert OwnScores.read(Fields(own.to_json(), "unknown")) == own
    later = {**own.to_json(), "also": "own-subspace/9"}
    read = OwnScores.read(Fields(later, "unknown"))
    assert read.also is None
    assert read.to_json() == later
    assert "also" not in replace(own, also=None).to_json()


def test_a_class_of_several_looks_is_told_from_what_is_between_them(
    rng: np.random.Generator,
) -> None:
    looks = np.eye(WIDTH)[:4]
    x = looks[np.arange(80) % 4] + 0.02 * rng.normal(size=(80, WIDTH))
    own = looks[np.arange(40) % 4] + 0.02 * rng.normal(size=(40, WIDTH))
    other = unit(looks.sum(axis=0)[None] + 1.5 * np.eye(WIDTH)[4:])  # near the mean, and beside
    plain = Table.of([left_out(x, x.sum(axis=0))])
    found = {}
    for table in (plain, plain.with_subspaces([x])):
        reference = Reference.of("a", [part_of("a", [x], table)])
        assert reference is not None
        found[table.angles is not None] = reference
    for spaces, reference in found.items():
        assert reference.judge(own, 0.05).inside.mean() >= 0.85
        assert reference.judge(other, 0.05).inside.any() != spaces


def test_classes_that_come_later_leave_former_ones_bitwise(rng: np.random.Generator) -> None:
    classes = [views(rng, 30), views(rng, 6), views(rng, 25), views(rng, 4)]
    first = table_of(classes[:2])
    parts = [part_of("ab", classes[:2], first)]
    test = np.concatenate([views(rng, 20), *classes])
    alone = Reference.of("ab", parts)
    later = [*parts, part_of("cd", classes[2:], table_of(classes[2:], first))]
    both = Reference.of("abcd", later)
    device = Reference.of("abe", with_classes(parts, {"e": classes[3]}, "mean"))
    assert alone is not None
    assert both is not None
    assert device is not None
    wanted = alone.judge(test, 0.05)
    for found in (both.judge(test, 0.05), device.judge(test, 0.05)):
        assert np.array_equal(found.p[:, :2], wanted.p)
        assert np.array_equal(found.pooled[:, :2], wanted.pooled)
    own = in_subspace(test, directions(classes[0])).astype(np.float32)
    assert np.array_equal(alone.cosines(test)[:, 0], own)
    assert np.isin(device.judge(classes[3], 0.05).inside[:, 2], True).all()


def test_rows_count_for_a_class_that_lacks_a_subspace_in_one_pack(
    rng: np.random.Generator,
) -> None:
    old, new, other = views(rng, 30), views(rng, 1), views(rng, 30)
    first = table_of([old, other])
    late = table_of([new], first)
    assert late.angles is not None  # of no image
    parts = [part_of("ab", [old, other], first), part_of("a", [new], late)]
    reference = Reference.of("ab", parts)
    assert reference is not None
    scores = reference.cosines(old)
    assert scores.shape[1] == 4  # both rows of a, and its subspace; the subspace of b alone
    moved = [replace(parts[0], live=[False, True]), parts[1]]
    after = Reference.of("ab", moved)
    assert after is not None
    assert after.cosines(old).shape[1] == 3  # the row has moved, the subspace of its images not


def test_scores_without_subspaces_go_on_without(rng: np.random.Generator) -> None:
    x = views(rng, 30)
    before = Table.of([left_out(x, x.sum(axis=0))])  # as an older version made them
    assert table_of([views(rng, 5)], before).angles is None
    sums = Table.of([np.empty(0)])
    assert table_of([views(rng, 5)], sums).angles is not None


def test_what_is_usual_of_a_class_is_of_its_row(rng: np.random.Generator) -> None:
    classes = [views(rng, 30), views(rng, 20)]
    table = table_of(classes)
    assert table.angles is not None
    reference = Reference.of("ab", [part_of("ab", classes, table)])
    x = unit(rng.normal(size=(1, WIDTH)))[0]
    for label, own in enumerate(classes):
        row = unit(own.mean(axis=0)[None])[0]
        wanted = x - table.centre[label] * row
        np.testing.assert_allclose(reference.away(2 * x, label), wanted, rtol=0, atol=1e-6)

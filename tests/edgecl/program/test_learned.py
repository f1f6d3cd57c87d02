"""Learned tensors: declarations, joining of parts, the digest that binds packs to programs."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl.program.generated import Generated
from edgecl.program.learned import (
    TensorSpec,
    interface_digest,
    join,
    ones,
    start_part,
    train_once,
    uniform,
    zeros,
)
from edgecl.program.task_rows import owners, task_of, task_rows

ROWS = TensorSpec("c d", {"d": 2}, concat_axis="c")
WIDE = TensorSpec("d c", {"d": 2}, concat_axis="c")
POOL = TensorSpec("m d", {"d": 2}, start={"m": 3})


def test_appended_tensors_are_concatenated_and_replaced_ones_are_the_last() -> None:
    first = {"rows": torch.ones(1, 2), "wide": torch.ones(2, 1), "pool": torch.zeros(3, 2)}
    second = {"rows": 2 * torch.ones(2, 2), "wide": 2 * torch.ones(2, 2)}
    third = {"rows": torch.zeros(1, 2), "wide": torch.zeros(2, 1), "pool": torch.ones(5, 2)}
    declared = {"rows": ROWS, "wide": WIDE, "pool": POOL}
    assert (
        join(declared, [first, second])["pool"].sum() == 0
    )  # the second has none: the first one's stays
    learned = join(declared, [first, second, third])
    assert learned["rows"].tolist() == [[1, 1], [2, 2], [2, 2], [0, 0]]
    assert learned["wide"].tolist() == [[1, 2, 2, 0], [1, 2, 2, 0]]
    assert learned["pool"].shape == (5, 2)


def test_before_the_first_task_there_are_no_rows_and_no_pool() -> None:
    learned = join({"rows": ROWS, "wide": WIDE, "pool": POOL}, [])
    assert {name: tuple(tensor.shape) for name, tensor in learned.items()} == {
        "rows": (0, 2),
        "wide": (2, 0),
    }


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
@settings(deadline=None)
def test_parts_and_their_join_hold_the_same_rows(counts: list[int]) -> None:
    whole = torch.arange(2.0 * sum(counts)).reshape(-1, 2)
    parts = [{"rows": rows} for rows in whole.split(counts)]
    assert torch.equal(join({"rows": ROWS}, parts)["rows"], whole)


def test_shapes_come_from_classes_start_and_sizes() -> None:
    assert ROWS.shape(classes=4) == (4, 2)
    assert POOL.shape(classes=4) == (3, 2)
    assert (ROWS.dim, WIDE.dim, POOL.dim) == (0, 1, None)


def test_a_part_holds_what_ships() -> None:
    once = replace(POOL, once=True)
    made = replace(POOL, generated=Generated(3))
    assert [POOL.shipped(task) for task in range(3)] == [True] * 3
    assert [once.shipped(task) for task in range(3)] == [True, False, False]
    assert not made.shipped(0)
    rows = TensorSpec("t", {}, concat_axis="t", start={"t": 1}, counts=True)
    assert rows.count(4).tolist() == [4]


def test_what_is_kept_once_is_what_would_be_replaced() -> None:
    kept = train_once({"rows": ROWS, "pool": POOL})
    assert kept == {"rows": ROWS, "pool": replace(POOL, once=True)}


def test_a_later_task_starts_without_what_is_kept_once() -> None:
    """Counts are in every part, of tasks that are not trained too."""
    trained = {"pool": replace(POOL, trained=True), "rows": replace(ROWS, trained=True)}
    declared = {**trained, "kept": replace(trained["pool"], once=True), **task_rows()}
    generator = torch.Generator().manual_seed(0)
    first = start_part(declared, {}, 2, generator, trained=True)
    assert first.keys() == declared.keys()
    later = start_part(declared, first, 3, generator, trained=True)
    assert later.keys() == declared.keys() - {"kept"}
    untrained = start_part(declared, first, 3, generator, trained=False)
    assert untrained.keys() == {"task_rows"}
    learned = join(declared, [first, later])
    assert learned["task_rows"].tolist() == [2, 3]
    assert torch.equal(learned["kept"], first["kept"])


def test_every_row_is_of_the_task_that_brought_it() -> None:
    learned = {"task_rows": torch.tensor([2.0, 1.0, 3.0])}
    assert owners(torch.zeros(6, 4), learned).tolist() == [0, 0, 1, 2, 2, 2]
    assert task_of(torch.tensor([[5], [0], [2]]), learned).tolist() == [[2], [0], [1]]
    wild = {"task_rows": 10 * torch.randn(4, generator=torch.Generator().manual_seed(0))}
    found = owners(torch.zeros(9, 1), wild)
    assert 0 <= found.min() <= found.max() < 4


def test_inits_are_as_told_and_come_from_the_generator() -> None:
    def draw(seed: int) -> torch.Tensor:
        return uniform(0.5)((1000,), torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert -0.5 <= draw(1).min() < -0.45
    assert 0.45 < draw(1).max() <= 0.5
    assert zeros((2, 3), torch.Generator()).tolist() == [[0] * 3] * 2
    assert ones((2, 3), torch.Generator()).tolist() == [[1] * 3] * 2


BASE = ("l2p", {"top_k": 5}, {"rows": ROWS}, "ab" * 32)


@pytest.mark.parametrize(
    "other",
    [
        ("dualprompt", *BASE[1:]),
        ("l2p", {"top_k": 4}, *BASE[2:]),
        ("l2p", {}, *BASE[2:]),
        (*BASE[:2], {"other": ROWS}, BASE[3]),
        (*BASE[:2], {"rows": replace(ROWS, sizes={"d": 3})}, BASE[3]),
        (*BASE[:2], {"rows": replace(ROWS, axes="k d", concat_axis="k")}, BASE[3]),
        (*BASE[:2], {"rows": replace(ROWS, concat_axis=None)}, BASE[3]),
        (*BASE[:3], "cd" * 32),
    ],
)
def test_the_interface_tells_programs_apart(other: tuple) -> None:
    assert interface_digest(*other) != interface_digest(*BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"init": uniform(1.0)}, {"start": {"c": 3}}, {"trained": True}, {"least": {"c": 2}},
        {"once": True}, {"counts": True}, {"half": False},
    ],
)  # fmt: skip
def test_the_interface_does_not_know_how_a_tensor_is_trained(change: dict) -> None:
    same = (*BASE[:2], {"rows": replace(ROWS, **change)}, BASE[3])
    assert interface_digest(*same) == interface_digest(*BASE)
    assert re.match(r"[0-9a-f]{64}$", interface_digest(*BASE))

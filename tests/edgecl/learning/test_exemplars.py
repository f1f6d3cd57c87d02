"""The rehearsal memory: the nearest to the mean stay, within the bytes, in equal shares."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgecl.learning.exemplars import ExemplarError, Memory, remember, split_state

BYTES = 2 * 2 * 3  # of one image


def pictures(count: int, first: int = 0) -> Tensor:
    """Return images that are told apart by their value."""
    return torch.arange(first, first + count, dtype=torch.uint8)[:, None, None, None].expand(
        count, 2, 2, 3
    )


def test_the_images_nearest_to_their_class_mean_stay() -> None:
    features = torch.tensor([[0.0], [1.0], [5.0], [10.0], [11.0], [19.0]])
    rows = torch.tensor([3, 3, 3, 4, 4, 4])  # means 2 and 13.3
    memory = remember(None, pictures(6), rows, features, 4 * BYTES)
    assert memory.class_rows.tolist() == [3, 3, 4, 4]
    assert memory.images[:, 0, 0, 0].tolist() == [1, 0, 4, 3]


def test_a_later_task_takes_its_share_from_the_farthest() -> None:
    features = torch.tensor([[0.0], [1.0], [5.0], [0.5]])
    first = remember(None, pictures(4), torch.zeros(4).long(), features, 4 * BYTES)
    new = torch.ones(3).long()
    both = remember(first, pictures(3, 10), new, torch.zeros(3, 1), 4 * BYTES)
    assert both.class_rows.tolist() == [0, 0, 1, 1]
    assert both.images[:2, 0, 0, 0].tolist() == first.images[:2, 0, 0, 0].tolist()


class Counting(Tensor):
    """Images that count how many of them are copied at once."""

    largest = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(found, Tensor) and found.ndim == 4:
            cls.largest = max(cls.largest, len(found))
        return found


def test_no_image_is_copied_that_is_not_remembered() -> None:
    rows, features = torch.arange(40) % 2, torch.arange(40.0)[:, None]
    images = pictures(40).clone()
    plain = remember(None, images, rows, features, 6 * BYTES)
    Counting.largest = 0
    found = remember(None, images.as_subclass(Counting), rows, features, 6 * BYTES)
    assert Counting.largest == 6
    assert torch.equal(found.images.as_subclass(Tensor), plain.images)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(0, 40))
def test_it_never_exceeds_its_budget(rows: list[int], room: int) -> None:
    count = len(rows)
    given_rows = torch.tensor(rows)
    if room < len(set(rows)):
        with pytest.raises(ExemplarError, match=r"--set memory=BYTES"):
            remember(None, pictures(count), given_rows, torch.rand(count, 2), room * BYTES)
        return
    memory = remember(None, pictures(count), given_rows, torch.rand(count, 2), room * BYTES)
    assert memory.images.nbytes <= room * BYTES
    assert set(memory.class_rows.tolist()) == set(rows)
    share = room // len(set(rows))
    assert memory.class_rows.bincount().max() <= share


def test_a_memory_is_stored_in_the_state_and_taken_out_again() -> None:
    memory = Memory(pictures(2), torch.tensor([0, 3]))
    again, rest = split_state({"gram": torch.eye(2), **memory.to_state()})
    assert again is not None
    assert torch.equal(again.images, memory.images)
    assert torch.equal(again.class_rows, memory.class_rows)
    assert rest.keys() == {"gram"}
    assert split_state(rest) == (None, rest)

"""Class order, shots, limits, validation: choices by seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecl.streams import ArraySource, ImageSet, Task, class_order, load_stream, split_validation
from edgecl.streams._errors import StreamError


def test_class_order_is_the_fields_permutation():
    # methods of the field print these with numpy's legacy generator and seed 1993
    assert class_order(100, 1993)[:12] == (68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89)
    assert class_order(200, 1993)[:12] == (168, 136, 51, 9, 183, 101, 171, 99, 42, 159, 191, 70)


def test_no_seed_is_the_natural_order():
    assert class_order(4, None) == (0, 1, 2, 3)
    assert load_stream("digits", seed=None).classes == tuple("0123456789")


def test_stream_order_is_the_permutation():
    assert load_stream("digits").classes == tuple(str(i) for i in class_order(10, 1993))


def test_base_and_increment_divide_the_classes_and_the_last_task_takes_the_rest():
    stream = load_stream("digits", base=5, increment=2)
    assert [len(task.classes) for task in stream.tasks] == [5, 2, 2, 1]


def test_shots_are_deterministic_and_per_class():
    first, again = (load_stream("digits", shots=3) for _ in range(2))
    other = load_stream("digits", shots=3, seed=1994)
    for task, same in zip(first.tasks, again.tasks, strict=True):
        assert task.train.names == same.train.names
        assert np.bincount(task.train.labels)[-2:].tolist() == [3, 3]
    assert {n for t in first.tasks for n in t.train.names} != {
        n for t in other.tasks for n in t.train.names
    }


def test_shots_of_a_class_do_not_depend_on_the_other_classes():
    few, many = (load_stream("digits", shots=4, seed=None, classes=c) for c in (3, 10))
    chosen = [{n for t in s.tasks for n in t.train.names} for s in (few, many)]
    assert chosen[0] < chosen[1]


def test_limits_are_class_balanced_totals():
    stream = load_stream("digits", limit_train=205, limit_test=100)
    labels = np.concatenate([task.train.labels for task in stream.tasks])
    assert np.bincount(labels).tolist() == [21] * 5 + [20] * 5
    assert [len(task.test) for task in stream.tasks] == [20] * 5


def test_validation_comes_from_the_current_task_only():
    task = load_stream("digits").tasks[2]
    train, validation = split_validation(task, 0.25, seed=3)
    assert set(train.names) | set(validation.names) == set(task.train.names)
    assert not set(train.names) & set(validation.names)
    share = np.bincount(validation.labels)[-2:] / np.bincount(task.train.labels)[-2:]
    assert share == pytest.approx([0.25, 0.25], abs=0.01)  # stratified
    assert split_validation(task, 0.25, seed=3)[1].names == validation.names
    assert split_validation(task, 0.25, seed=4)[1].names != validation.names


def test_validation_fraction_of_one_is_refused():
    with pytest.raises(StreamError, match=r"Choose for example 0\.2"):
        split_validation(load_stream("digits").tasks[0], 1.0, seed=0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.floats(0, 0.95))
def test_validation_never_empties_a_class(labels, fraction):
    source = ArraySource(np.zeros((len(labels), 2, 2), np.uint8))
    images = ImageSet.of(source, labels, [str(i) for i in range(len(labels))])
    classes = tuple(str(label) for label in sorted(set(labels)))
    train, validation = split_validation(Task("t", classes, images, images), fraction, seed=0)
    assert set(train.labels) == set(labels)
    assert sorted(train.names + validation.names) == sorted(images.names)

"""Canonical JSON: one byte string for one value, whatever wrote it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl_deploy.manifest.canonical import canonical, load_object

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(text, values, max_size=4)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"b": 1, "a": [1.5, None, True]}, b'{"a":[1.5,null,true],"b":1}'),
        ({"ü": "–"}, '{"ü":"–"}'.encode()),
        ([2, {"z": 0, "a": 0}], b'[2,{"a":0,"z":0}]'),
        ("text", b'"text"'),
        ({}, b"{}"),
    ],
)
def test_the_form_is_fixed(value, data):
    assert canonical(value) == data


@given(objects)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_equal_values_give_equal_bytes_that_are_read_back(value):
    data = canonical(value)
    shuffled = dict(reversed(value.items()))
    assert canonical(shuffled) == data
    assert canonical(json.loads(data)) == data
    assert canonical(load_object(data, "value", 10_000)) == data


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_a_number_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(value)

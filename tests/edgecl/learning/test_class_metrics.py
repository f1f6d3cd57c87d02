"""The figures of each class: against scikit-learn, bounded, and read as they were written."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from edgecl.learning.class_metrics import (
    MISTAKES,
    PAIRS,
    ClassFigures,
    ClassTally,
    Mistake,
    Pair,
)
from edgecl.learning.fields import RecordError
from edgecl.learning.pictures import LARGEST, picture, thumbnail

NAMES = ("ant", "bee", "cow", "dog")


def figures_of(answers: list[tuple[str, str]], names: tuple[str, ...] = NAMES) -> ClassFigures:
    tally = ClassTally(names)
    for index, (wanted, said) in enumerate(answers):
        tally.add(f"{index}.png", wanted, said, 1.0 / (1 + index))
    return tally.figures()


pairs = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES))


@given(st.lists(pairs, max_size=40))
def test_the_figures_are_those_of_scikit_learn(answers: list[tuple[str, str]]) -> None:
    found = figures_of(answers)
    wanted, said = [w for w, _ in answers], [s for _, s in answers]
    if answers:
        precision, recall, _, images = precision_recall_fscore_support(
            wanted, said, labels=NAMES, zero_division=math.nan
        )
        for mine, theirs in ((found.precision, precision), (found.recall, recall)):
            for a, b in zip(mine, theirs, strict=True):
                assert (a is None and math.isnan(b)) or a == pytest.approx(b)
        assert found.images == tuple(images)
    right = sum(w == s for w, s in answers)
    assert found.accuracy == (right / len(answers) if answers else None)
    assert sum(pair.images for pair in found.pairs) == len(answers) - right == len(found.mistakes)
    assert set(found.without_images) == set(NAMES) - set(wanted)
    assert ClassFigures.from_json(json.loads(json.dumps(found.to_json())), "x") == found


def test_pairs_and_mistakes_are_the_first_and_the_others_are_counted() -> None:
    names = tuple(f"{index:04d}" for index in range(1000))
    tally = ClassTally(names)
    for index in range(999):
        tally.add(f"{index}.png", names[index], names[index + 1], float(index))
    for _ in range(3):
        tally.add("often.png", names[5], names[9], -1.0)
    found = tally.figures()
    assert found.pairs[0] == Pair("0005", "0009", 3)
    assert (len(found.pairs), found.pairs_left_out) == (PAIRS, 1000 - PAIRS)
    assert (len(found.mistakes), found.mistakes_left_out) == (MISTAKES, 1002 - MISTAKES)
    assert [each.score for each in found.mistakes] == [float(998 - i) for i in range(MISTAKES)]
    assert len(json.dumps(found.to_json())) < 60_000


def test_of_equal_scores_the_first_image_stays_and_a_score_may_be_no_number() -> None:
    tally = ClassTally(NAMES)
    for index in range(MISTAKES + 5):
        tally.add(f"{index}.png", "ant", "bee", 0.5)
    tally.add("nan.png", "ant", "bee", math.nan)
    found = tally.figures()
    assert [each.image for each in found.mistakes] == [f"{i}.png" for i in range(MISTAKES)]
    alone = ClassTally(NAMES)
    alone.add("nan.png", "ant", "bee", math.inf)
    assert alone.figures().mistakes == (Mistake("nan.png", "ant", "bee", None),)


@pytest.mark.parametrize(
    ("changes", "must"),
    [
        ({"names": ["ant"] * 4}, "classes.names must be names of classes, each once"),
        ({"images": [1]}, "classes must be three counts for each of 4 classes"),
        ({"right": [2, 0, 0, 0]}, "classes.right must be at most the images and the answers"),
        ({"said": [9, 0, 0, 0]}, "classes.said must be answers to 2 images"),
        ({"pairs": [{"wanted": "ant"}]}, r"x.pairs\[0\] must be an object with the field 'said'"),
        ({"mistakes_left_out": -1}, "x.mistakes_left_out must be a whole number"),
    ],
)
def test_what_is_no_record_is_refused(changes: dict[str, Any], must: str) -> None:
    whole = figures_of([("ant", "ant"), ("ant", "bee")]).to_json()
    with pytest.raises(RecordError, match=must):
        ClassFigures.from_json({**whole, **changes}, "x")


def test_a_class_that_came_back_is_one_class() -> None:
    assert ClassTally(("ant", "bee", "ant")).names == ("ant", "bee")


# -- pictures


@pytest.mark.parametrize("shape", [(224, 224), (96, 96), (500, 3), (1, 1)])
def test_a_picture_is_small_whatever_it_shows(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    encoded = thumbnail(noise)
    assert 0 < len(encoded) <= LARGEST
    assert picture(encoded, "x") == encoded


@pytest.mark.parametrize("bad", ["a" * (LARGEST + 1), '"><script>', "data:image/png", 3])
def test_what_is_no_picture_is_refused(bad: object) -> None:
    with pytest.raises(RecordError, match=r"x must be a (picture in base64|text)"):
        picture(bad, "x")


def test_only_mistakes_that_stay_have_a_picture() -> None:
    tally = ClassTally(NAMES)

    def pixels() -> NDArray[np.uint8]:
        asked.append(1)
        return np.zeros((8, 8, 3), np.uint8)

    asked: list[int] = []
    tally.add("right.png", "ant", "ant", 1.0, pixels)
    assert not asked, "a right answer needs no picture"
    tally.add("wrong.png", "ant", "bee", 1.0, pixels)
    found = tally.figures()
    assert [bool(each.picture) for each in found.mistakes] == [True]
    bare = found.without_pictures()
    assert bare.mistakes == (replace(found.mistakes[0], picture=""),)
    assert asdict(bare) == {**asdict(found), "mistakes": bare.to_json()["mistakes"]}


def test_classes_that_got_other_names_keep_their_figures() -> None:
    found = figures_of([("ant", "bee"), ("bee", "bee"), ("cow", "ant")])
    swapped = found.renamed("ant", "x").renamed("bee", "ant").renamed("x", "bee")
    swapped = swapped.renamed("dog", "hound")
    assert swapped.names == ("bee", "ant", "cow", "hound")
    assert (swapped.images, swapped.right, swapped.said) == (found.images, found.right, found.said)
    assert {(p.wanted, p.said) for p in swapped.pairs} == {("bee", "ant"), ("cow", "bee")}
    assert [(m.wanted, m.said) for m in swapped.mistakes] == [("bee", "ant"), ("cow", "bee")]
    assert found.renamed("yak", "zebra") == found


def test_an_image_of_a_class_that_cannot_be_answered_is_wrong() -> None:
    found = figures_of([("ant", "ant"), ("yak", "ant")])
    assert found.names == (*NAMES, "yak")
    assert (found.images[-1], found.right[-1], found.accuracy) == (1, 0, 0.5)


def test_two_classes_become_one():
    figures = ClassFigures(
        names=("a", "b", "c"),
        images=(4, 3, 2),
        right=(2, 1, 1),
        said=(3, 3, 3),
        pairs=(Pair("a", "b", 2), Pair("b", "a", 1), Pair("b", "c", 1), Pair("c", "a", 1)),
        mistakes=(Mistake("1.png", "a", "b", 0.5), Mistake("2.png", "b", "c", 0.4)),
    )
    merged = figures.renamed("b", "a")
    assert (merged.names, merged.images, merged.said) == (("a", "c"), (7, 2), (6, 3))
    assert merged.right == (2 + 1 + 2 + 1, 1)
    assert {(p.wanted, p.said, p.images) for p in merged.pairs} == {("a", "c", 1), ("c", "a", 1)}
    assert [each.image for each in merged.mistakes] == ["2.png"]
    assert merged.renamed("b", "a") == merged
    assert figures.renamed("c", "x").names == ("a", "b", "x")
    assert figures.renamed("c", "x").renamed("x", "c") == figures

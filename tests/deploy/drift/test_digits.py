"""How soon a change of real pictures is found: scikit-learn's digits, without the class 9.

The pixels are the features, p-values are those of a release with class means. The figures are the
table of docs/guides/drift.md.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from edgecl_deploy.drift.detector import Detector, threshold
from edgecl_deploy.unknown.own import cosines, left_out

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "drift.md"
KNOWN, RUNS, MOST, RUN_LENGTH = 9, 60, 2000, 1e6


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels[order], labels[order]


def typical(digits, count):
    """The highest p-value of pictures that were not learned, by what was done to them."""
    pixels, labels = digits
    learned = [np.flatnonzero(labels == k)[:count] for k in range(KNOWN)]
    rest = np.setdiff1d(np.arange(len(pixels)), np.concatenate(learned))
    sums = [pixels[each].sum(axis=0) for each in learned]
    own = [
        np.sort(left_out(pixels[each], total)) for each, total in zip(learned, sums, strict=True)
    ]

    def highest(images):
        found = [
            (1 + np.searchsorted(scores, cosines(images, total), side="right")) / (count + 1)
            for scores, total in zip(own, sums, strict=True)
        ]
        return np.max(found, axis=0)

    rng = np.random.default_rng(0)
    known, new = pixels[rest[labels[rest] < KNOWN]], pixels[rest[labels[rest] == KNOWN]]
    noisy = np.clip(known + rng.normal(0, 4, known.shape), 0, 16)
    moved = np.roll(known.reshape(-1, 8, 8), 1, axis=2).reshape(-1, 64)
    half = np.concatenate([new, known[: len(new)]])
    kinds = {"nothing": known, "a new class": new, "a new class, of half of the images": half}
    kinds |= {"noise": noisy, "the camera moved": moved}
    return {name: highest(images) for name, images in kinds.items()}


def delay(numbers):
    """Median images until an alarm; infinite if more than half of the streams have none."""
    detector, rng = Detector(), np.random.default_rng(1)
    state, found = detector.start(RUNS), np.full(RUNS, np.inf)
    for count in range(1, MOST + 1):
        state = detector.step(state, rng.choice(numbers, RUNS))
        found[(detector.evidence(state) >= threshold(RUN_LENGTH)) & np.isinf(found)] = count
        if np.isfinite(np.median(found)):
            break
    return float(np.median(found))


@pytest.mark.parametrize("count", [80, 20, 5])
def test_the_guide_tells_what_is_found(digits, count):
    column = {80: 0, 20: 1, 5: 2}[count]
    rows = re.findall(r"^\| ([a-z, ]+) \| (\S+) \| (\S+) \| (\S+) \|$", GUIDE.read_text(), re.M)
    told = {name: cells[column] for name, *cells in rows if cells[0] != "80"}  # not the head
    numbers = typical(digits, count)
    assert set(told) == set(numbers)
    assert numbers["nothing"].mean() >= 0.5
    for name, cell in told.items():
        found = delay(numbers[name])
        if cell == "none":
            assert np.isinf(found), name
        else:
            assert found == pytest.approx(float(cell), rel=0.2), name

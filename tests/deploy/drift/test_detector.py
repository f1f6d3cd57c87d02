"""The rule of the alarm: what it promises, and how fast it is."""

import numpy as np
import pytest

from edgecl_deploy.drift.detector import BETS, Detector, threshold
from edgecl_deploy.drift.measures import Rate

RUN_LENGTH, RUNS = 1e3, 500


def waits(detector, draw, run_length, runs, most):
    """How many numbers come until each of many streams gives an alarm: [runs], at most `most`."""
    state, found, left = detector.start(runs), np.full(runs, most), np.arange(runs)
    for count in range(1, most + 1):
        state = detector.step(state, draw(len(left), count))
        rings = detector.evidence(state) >= threshold(run_length)
        if rings.any():
            found[left[rings]] = count
            left, state = left[~rings], state[~rings]
            if not len(left):
                break
    return found


STREAMS = {
    "uniform": (0.5, lambda rng, n, _: rng.random(n)),
    "coins": (0.5, lambda rng, n, _: rng.integers(0, 2, n).astype(float)),
    "calm and wild by turns": (
        0.5,
        lambda rng, n, t: 0.5 + (rng.random(n) - 0.5) * (1.0 if t // 50 % 2 else 0.1),
    ),
    "at another level": (0.1, lambda rng, n, _: (rng.random(n) < 0.1).astype(float)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_false_alarms_are_as_rare_as_promised(name):
    level, draw = STREAMS[name]
    rng = np.random.default_rng(0)
    found = waits(
        Detector(level), lambda n, t: draw(rng, n, t), RUN_LENGTH, RUNS, int(4 * RUN_LENGTH)
    )
    assert found.mean() >= 0.9 * RUN_LENGTH  # cut off at 4, so the true mean is larger


@pytest.mark.parametrize(
    ("mean", "delay"), [(0.435, 196), (0.40, 104), (1 / 3, 50), (0.25, 32)], ids=str
)
def test_a_change_is_found_in_time(mean, delay):
    rng, power = np.random.default_rng(1), 1 / mean - 1  # E[U^k] = 1 / (k + 1)
    found = waits(Detector(), lambda n, _: rng.random(n) ** power, 1e4, 400, 3000)
    assert np.median(found) == pytest.approx(delay, rel=0.2)


def test_ten_million_steps_do_not_overflow():
    detector = Detector()
    gains = np.log1p(np.array(BETS) / 2)
    state = np.stack([detector.start(), 1e7 * gains])  # from the first, and after ten million
    for _ in range(2000):
        state = detector.step(state, 0.0)
    assert np.isfinite(state).all()
    assert state[1] == pytest.approx((1e7 + 2000) * gains, rel=1e-12)
    assert state[0, -1] == pytest.approx(2000 * gains[-1], abs=1.5)
    for _ in range(2000):
        state = detector.step(state, 1.0)
    assert np.isfinite(state).all()
    assert (state >= 0).all()
    assert detector.evidence(state[0]) < threshold(RUN_LENGTH) / 2


def test_one_step_is_that_of_the_paper():
    detector, rng = Detector(), np.random.default_rng(2)
    state, r = detector.start(), np.zeros(len(BETS))
    for u in rng.random(200):
        state, r = detector.step(state, u), (r + 1) * (1 + np.array(BETS) * (0.5 - u))
    assert np.expm1(state) == pytest.approx(r, rel=1e-9)
    assert np.expm1(detector.evidence(state)) == pytest.approx(r.mean(), rel=1e-9)


def test_the_begin_of_a_change_is_dated():
    detector, rng = Detector(), np.random.default_rng(3)
    score, low = 0.0, 0
    for count in range(600):
        score = detector.recent(score, rng.random() * (1.0 if count < 400 else 0.6))
        low = count if score == 0.0 else low
    assert 350 <= low <= 420


def test_the_interval_is_that_of_wilson():
    rate = Rate.of(12, 100)
    assert (rate.low, rate.high) == pytest.approx((0.0700, 0.1981), abs=1e-3)
    assert Rate.of(0, 10).low == 0.0
    assert 0.2 < Rate.of(0, 10).high < 0.35
    assert Rate.of(0, 0) == Rate(0.0, 0.0, 1.0, 0)

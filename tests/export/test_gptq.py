"""The rounding of weights: what it guarantees, and that it is better than the nearest value."""

import numpy as np
import pytest

from edgecl.backbones.rounding import Rounded, nearest
from edgecl_export.quantize.gptq import CHUNK, Moments, gptq


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    """Return inputs as a network has them: a few directions hold most of the variance."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, 8)) @ rng.normal(size=(8, k))
    return (mixed + 0.1 * rng.normal(size=(rows, k))).astype(np.float32)


def moments_of(inputs: np.ndarray) -> Moments:
    moments = Moments(inputs.shape[1])
    moments.add(inputs)
    return moments


def rms(inputs: np.ndarray, weight: np.ndarray, rounded: Rounded) -> float:
    return float(np.sqrt(np.mean((inputs @ (rounded.dequantised() - weight)) ** 2)))


@pytest.mark.parametrize("shape", [(96, 40), (200, 64), (64, 7)])
def test_outputs_err_by_less_than_with_the_nearest_values(shape: tuple[int, int]) -> None:
    k, n = shape
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    seen, fresh = np.split(correlated(4000, k), 2)
    rounded = gptq(weight, moments_of(seen))
    assert rms(fresh, weight, rounded) <= 0.75 * rms(fresh, weight, nearest(weight))
    assert rounded.values.dtype == np.int8
    assert rounded.scales.shape == (n,)
    assert np.abs(rounded.values.astype(int)).max() <= 127


def test_scales_are_those_of_the_columns() -> None:
    weight = np.array([[127, -2, 0], [-1, 1, 0]], np.float32)
    rounded = gptq(weight, Moments(2))
    np.testing.assert_allclose(rounded.scales, [1, 2 / 127, 1], rtol=1e-6)
    np.testing.assert_array_equal(rounded.values[:, 2], 0)
    np.testing.assert_allclose(rounded.dequantised()[:, 0], weight[:, 0], rtol=1e-6)


def test_without_correlation_it_is_the_nearest_value() -> None:
    weight = np.random.default_rng(2).normal(size=(100, 9)).astype(np.float32)
    moments = Moments(100)
    moments.total, moments.rows = np.eye(100), 1
    np.testing.assert_array_equal(gptq(weight, moments).values, nearest(weight).values)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrections that wait for the end of a block are those that are made at once."""
    weight = np.random.default_rng(3).normal(size=(150, 5)).astype(np.float32)
    moments = moments_of(correlated(600, 150))
    blocks = gptq(weight, moments)
    monkeypatch.setattr("edgecl_export.quantize.gptq.BLOCK", 150)
    np.testing.assert_array_equal(blocks.values, gptq(weight, moments).values)


def test_moments_are_sums_over_calls_in_any_shape() -> None:
    inputs = correlated(2 * CHUNK + 12, 6)
    whole, parts = moments_of(inputs), Moments(6)
    parts.add(inputs[:12].reshape(3, 4, 6))
    parts.add(inputs[12:])
    assert parts.rows == whole.rows == len(inputs)
    wide = inputs.astype(np.float64)
    np.testing.assert_allclose(parts.total, wide.T @ wide, rtol=1e-12)

"""Matchers that compare the density of the query under each task's features."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.learned import Tensors, TensorSpec
from edgecl.program.matchers.base import Match, newest

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
JITTERS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
FOLDS = 5
STEEPNESS = 4.0  # of a calibrated weight, per standard deviation
NARROWEST = 0.2  # no spread is taken for less: a device's rounding would decide


@dataclass(frozen=True)
class TaskGaussians:
    """The task whose Gaussian gives the query of length 1 the highest density (DIKI).

    The score is the weight that DIKI gives to what was matched, sigmoid(a log N(u) / d - b): near 1
    for an image like the task's, near 0 for one that is like no task's. DIKI has a = b = 1; that
    fits features of one spread only, so a task may have its own. A method that uses it gives every
    task its Gaussian (`task_gaussian` in `Method.start`).

    With S the covariance and W the lower triangle of W'W = S^-1, log N(u) is
    log det W - |W (u - mean)|^2 / 2 - d log(2 pi) / 2: a device neither factorises nor inverts.
    """

    width: int  # d
    name: ClassVar[str] = "gaussian"

    def declare(self) -> dict[str, TensorSpec]:
        d = self.width
        packed = {"q": (d + 1) // 2, "e": d + 1}
        return {
            "gaussian_means": task_entry("t d", {"d": d}),
            "gaussian_factors": task_entry("t q e", packed),
            **{
                f"gaussian_{name}": task_entry("t", {})
                for name in ("log_dets", "slopes", "offsets")
            },
        }

    def log_density(self, query: Float[Tensor, "b d"], learned: Tensors) -> Float[Tensor, "b t"]:
        """Return log N(u) / d for every task, u being the query at length 1."""
        means, packed = learned["gaussian_means"], learned["gaussian_factors"]
        away = F.normalize(query, dim=-1) - means.unsqueeze(1)  # t b d
        squared = folded_product(packed, away).square().sum(dim=-1)  # t b
        log_dets = learned["gaussian_log_dets"].unsqueeze(1)
        return ((log_dets - 0.5 * squared) / self.width - HALF_LOG_TWO_PI).T

    def __call__(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        density, index = self.log_density(query, learned).topk(1, dim=-1)
        slope, offset = learned["gaussian_slopes"][index], learned["gaussian_offsets"][index]
        return Match(index, torch.sigmoid(slope * density - offset))

    def own(self, query: Float[Tensor, "b d"], learned: Tensors) -> Match:
        """Match the newest task, with weight 1."""
        return newest(query, len(learned["gaussian_means"]))


def task_entry(axes: str, sizes: dict[str, int]) -> TensorSpec:
    """Declare what every task adds one of; a whitening in float16 would decide by its rounding."""
    return TensorSpec(axes, sizes, concat_axis="t", start={"t": 1}, half=False)


def task_gaussian(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    jitter: float | None,
    calibrate: bool,
) -> Tensors:
    """Return the part of one task: its Gaussian of features of length 1, factorised in float64.

    Args:
        labels: the classes, by which images are held out; see `folds_of`.
        jitter: added to the diagonal of the covariance; it decides where there are fewer images
            than features. None: that of `JITTERS` under which held-out images are likeliest.
        calibrate: measure the weight by held-out images, 1/2 being one standard deviation below
            their mean log-density; else by 1 as DIKI does.
    """
    rows = F.normalize(features.cpu().double(), dim=-1)
    folds = folds_of(labels.cpu())
    held = {
        each: held_out_densities(rows, folds, each) for each in ((jitter,) if jitter else JITTERS)
    }
    best = max(held, key=lambda each: float(held[each].mean()))
    slope, offset = torch.ones(1), torch.ones(1)
    if calibrate:
        spread = max(float(held[best].std(correction=0)), NARROWEST)
        slope = slope * STEEPNESS / spread
        offset = slope * (float(held[best].mean()) - spread)
    mean, whitening = gaussian_of(rows, best)
    return {
        "gaussian_means": mean.float()[None],
        "gaussian_factors": folded(whitening).float()[None],
        "gaussian_log_dets": whitening.diagonal().log().sum().float()[None],
        "gaussian_slopes": slope,
        "gaussian_offsets": offset,
    }


def gaussian_of(
    rows: Float[Tensor, "n d"], jitter: float
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return the mean and the triangle W with W'W = (covariance + jitter I)^-1."""
    mean = rows.mean(dim=0)
    away = rows - mean
    eye = torch.eye(rows.shape[1], dtype=rows.dtype)
    covariance = away.T @ away / max(1, len(rows) - 1) + jitter * eye
    lower = torch.linalg.cholesky(covariance)
    return mean, torch.linalg.solve_triangular(lower, eye, upper=False)


def folds_of(labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Deal images to folds by runs of their class, so that neighbours are held out together.

    Images side by side are often near copies, as the frames of a camera are: dealt in turns, each
    would have its copy among the others and seem likelier than a new image is.
    """
    folds = torch.zeros_like(labels)
    for position, label in enumerate(labels.unique()):
        (mine,) = (labels == label).nonzero(as_tuple=True)
        run = torch.arange(len(mine)) * FOLDS // len(mine)
        folds[mine] = (run + position) % FOLDS  # classes of one image differ too
    return folds


def held_out_densities(
    rows: Float[Tensor, "n d"], folds: Int[Tensor, " n"], jitter: float
) -> Float[Tensor, " n"]:
    """Return log N / d of the rows of each fold under the Gaussian of the others, fold by fold.

    A single fold is held against itself.
    """
    found = []
    for fold in folds.unique():
        others = rows[folds != fold]
        mean, whitening = gaussian_of(others if len(others) else rows, jitter)
        squared = ((rows[folds == fold] - mean) @ whitening.T).square().sum(dim=-1)
        log_det = whitening.diagonal().log().sum()
        found.append((log_det - 0.5 * squared) / rows.shape[1] - HALF_LOG_TWO_PI)
    return torch.cat(found)


def folded(lower: Float[Tensor, "d d"]) -> Float[Tensor, "q e"]:
    """Fold a lower triangle into half its square: [(d + 1) // 2, d + 1].

    Row r holds row r of the triangle from the left and, reversed, row d - 1 - r from the right; the
    middle row of an odd d is held once.
    """
    d = len(lower)
    packed = lower.new_zeros((d + 1) // 2, d + 1)
    for row in range(d // 2):
        packed[row, : row + 1] = lower[row, : row + 1]
        packed[row, row + 1 :] = lower[d - 1 - row, : d - row].flip(0)
    if d % 2:
        packed[-1, : d // 2 + 1] = lower[d // 2, : d // 2 + 1]
    return packed


def folded_product(
    packed: Float[Tensor, "t q e"], rows: Float[Tensor, "t b d"]
) -> Float[Tensor, "t b k"]:
    """Return the triangles times the rows, in the order of the fold."""
    left = packed.tril().transpose(1, 2)  # t e q: of the row from the left
    right = packed.transpose(1, 2) - left
    return torch.cat([F.pad(rows, (0, 1)) @ left, F.pad(rows.flip(-1), (1, 0)) @ right], dim=-1)

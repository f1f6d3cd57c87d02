"""Twelve disturbances of an image, under which a model that knows it answers as before.

Those of the public code of Serra and Buettner, ICLR 2025 (MLO-lab/online-FCL), which applies
torchvision's to a whole batch. Here each image has random numbers of its own, by its content, so
what is made of it depends on nothing else; every disturbance is made (there a flip, an inversion or
a perspective in half of the batches); geometry is bilinear on black; a hole has the mean colour of
its image, and the share of the side that it has in 32 pixels there.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgecl.learning.augment.draws import key_of

NUMBERS = 8  # of each image and disturbance
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
Numbers = NDArray[np.float64]


def keys_of(images: UInt8[Tensor, "n h w 3"], seed: int) -> list[int]:
    """Return what the random numbers of each image come from."""
    return [key_of(seed, hashlib.sha256(each.numpy().tobytes()).digest()) for each in images]


def disturb(
    images: UInt8[Tensor, "n s s 3"], keys: list[int], view: int
) -> UInt8[Tensor, "n s s 3"]:
    """Return the images under one of `VIEWS`, by its position."""
    rows = [
        np.random.Generator(np.random.Philox(key=key, counter=view << 64)).random(NUMBERS)
        for key in keys
    ]
    x = images.permute(0, 3, 1, 2).float()  # n 3 s s
    made = VIEWS[view](x, np.stack(rows))
    return made.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def hole(length: float) -> Callable[[Tensor, Numbers], Tensor]:
    """Return what fills a square, which the edge may cut, with the image's mean colour."""

    def made(x: Float[Tensor, "n 3 s s"], numbers: Numbers) -> Float[Tensor, "n 3 s s"]:
        side = x.shape[-1]
        half = round(length * side) / 2
        centre = torch.from_numpy(np.floor(numbers[:, :2] * side))
        inside = (torch.arange(side) - centre[..., None]).add(0.5).abs() < half  # n 2 s
        mask = inside[:, None, 0, :, None] & inside[:, None, 1, None, :]
        return torch.where(mask, x.mean(dim=(2, 3), keepdim=True), x)

    return made


def turned(degrees: float) -> Callable[[Tensor, Numbers], Tensor]:
    """Return what turns by at most so much to either side."""
    return lambda x, numbers: warp(x, rotation((2 * numbers[:, 0] - 1) * degrees))


def mirrored(x: float, y: float) -> Callable[[Tensor, Numbers], Tensor]:
    """Return what multiplies the axes."""
    return lambda images, numbers: warp(images, np.stack([np.diag([x, y, 1.0])] * len(numbers)))


def brightness(x: Tensor, numbers: Numbers) -> Tensor:
    """Make darker or brighter by up to a tenth."""
    factor = torch.from_numpy(0.9 + 0.2 * numbers[:, 0]).float()
    return x * factor[:, None, None, None]


def inverted(x: Tensor, numbers: Numbers) -> Tensor:
    """Make the negative."""
    return 255 - x


def moved(x: Tensor, numbers: Numbers) -> Tensor:
    """Turn by up to 20 degrees, shrink to between a half and three quarters, and move."""
    shrunk = 1 / (0.5 + 0.25 * numbers[:, 1])
    back = rotation(-(2 * numbers[:, 0] - 1) * 20)
    back[:, :2, :2] *= shrunk[:, None, None]
    shift = (2 * numbers[:, 2:4] - 1) * np.array([0.1, 0.3]) * 2  # of half a side
    back[:, :2, 2] = -(back[:, :2, :2] @ shift[..., None])[..., 0]
    return warp(x, back)


def cropped(x: Tensor, numbers: Numbers) -> Tensor:
    """Cut out a part of at least 0.8 of the area, and enlarge it."""
    area, ratio = 0.8 + 0.2 * numbers[:, 0], np.exp(math.log(0.9) + 0.2 * numbers[:, 1])
    sides = np.sqrt(np.stack([area * ratio, area / ratio], axis=1)).clip(max=1)
    homography = np.zeros((len(numbers), 3, 3))
    homography[:, (0, 1), (0, 1)] = sides
    homography[:, 2, 2] = 1
    homography[:, :2, 2] = (2 * numbers[:, 2:4] - 1) * (1 - sides)
    return warp(x, homography, "border")


def perspective(x: Tensor, numbers: Numbers) -> Tensor:
    """Move every corner inwards by up to a quarter of the side, each way."""
    found = CORNERS * (1 - 0.5 * numbers.reshape(-1, 4, 2))  # n 4 2: where the corners go
    equations, wanted = np.zeros((len(x), 8, 8)), np.zeros((len(x), 8))
    for corner in range(4):
        u, v = found[:, corner, 0], found[:, corner, 1]
        for axis in range(2):
            row, to = 2 * corner + axis, CORNERS[corner, axis]
            equations[:, row, 3 * axis : 3 * axis + 3] = np.stack([u, v, np.ones_like(u)], axis=1)
            equations[:, row, 6:] = -to * np.stack([u, v], axis=1)
            wanted[:, row] = to
    solved = np.linalg.solve(equations, wanted[..., None])[..., 0]
    return warp(x, np.concatenate([solved, np.ones((len(x), 1))], axis=1).reshape(-1, 3, 3))


VIEWS: tuple[Callable[[Tensor, Numbers], Tensor], ...] = (
    hole(10 / 32), hole(20 / 32), mirrored(-1.0, 1.0), mirrored(1.0, -1.0), turned(10.0),
    turned(45.0), turned(90.0), brightness, perspective, moved, cropped, inverted,
)  # fmt: skip


def rotation(degrees: Numbers) -> Numbers:
    """Return the homographies of turns."""
    turn = np.deg2rad(degrees)
    made = np.zeros((len(degrees), 3, 3))
    made[:, 0, 0] = made[:, 1, 1] = np.cos(turn)
    made[:, 0, 1], made[:, 1, 0] = -np.sin(turn), np.sin(turn)
    made[:, 2, 2] = 1
    return made


def warp(
    x: Float[Tensor, "n 3 s s"], homographies: Numbers, outside: str = "zeros"
) -> Float[Tensor, "n 3 s s"]:
    """Read every pixel from where its homography sends it, in coordinates of -1 to 1.

    Args:
        outside: what is there: black, or the `border` of the image.
    """
    side = x.shape[-1]
    line = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
    y, along = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([along, y, torch.ones_like(y)], dim=-1)  # s s 3
    seen = points.flatten(0, 1) @ torch.from_numpy(homographies).transpose(1, 2)  # n s*s 3
    grid = (seen[..., :2] / seen[..., 2:]).unflatten(1, (side, side)).float()
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=outside, align_corners=False)

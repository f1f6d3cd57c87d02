"""Pixels of views: many crops are resized, flipped and coloured at once, on the device.

A crop is resized as Pillow does it: a pass along rows, then one along columns, with a filter that
widens where the crop shrinks (antialiasing), weights of `BITS` bits and pixels of 8 between the
passes. Here each pass is a product of matrices of whole numbers, which doubles hold exactly: the
result has the same bits in any batch, with any number of threads. torchvision's resized_crop of the
same picture has them too, but for crops of which Pillow does the columns first (some that are
higher than wide): what is rounded between the passes is then another level.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from edgecl.learning.augment.augmentation import Interpolation
from edgecl.learning.augment.draws import Draw

TOGETHER = 16  # pictures that are rendered at once: bounds memory
BITS = 22  # of a weight, as Pillow's
FINE = 40  # bits of weights whose sum is exact


class Piece(NamedTuple):
    """A part of a picture that becomes a square.

    Attributes:
        pixels: uint8 [h, w, 3], of all pixels that the box touches.
        left, top, width, height: of the box, in these pixels.
    """

    pixels: NDArray[np.uint8]
    left: float
    top: float
    width: float
    height: float

    def span(self, axis: int) -> tuple[float, float, int]:
        """Return start and length of the box along an axis, and how many pixels there are."""
        start, length = (self.left, self.width) if axis else (self.top, self.height)
        return start, length, self.pixels.shape[axis]


def piece(canvas: NDArray[np.uint8], sides: tuple[int, int], box: tuple[int, ...]) -> Piece:
    """Return what a crop reads of a picture.

    Args:
        canvas: the picture as it is stored.
        sides: its width and height before that.
        box: left, top, width and height of the crop, in pixels of the sides.
    """
    found = []
    for axis in (0, 1):
        scale = canvas.shape[1 - axis] / sides[axis]
        start, end = box[axis] * scale, (box[axis] + box[axis + 2]) * scale
        first, last = int(start), min(canvas.shape[1 - axis], int(-(-end // 1)))
        found.append((first, last, start - first, end - start))
    (left, right, x, width), (top, bottom, y, height) = found
    return Piece(canvas[top:bottom, left:right], x, y, width, height)


def resize(
    pieces: Sequence[Piece], size: int, interpolation: Interpolation, device: torch.device
) -> UInt8[Tensor, "b size size 3"]:
    """Make squares of parts of pictures."""
    parts = [
        _resize(pieces[start : start + TOGETHER], size, interpolation, device)
        for start in range(0, len(pieces), TOGETHER)
    ]
    return torch.cat(parts)


def _resize(
    pieces: Sequence[Piece], size: int, interpolation: Interpolation, device: torch.device
) -> UInt8[Tensor, "b size size 3"]:
    height = max(len(each.pixels) for each in pieces)
    width = max(each.pixels.shape[1] for each in pieces)
    stacked = np.zeros((len(pieces), height, width, 3), np.uint8)
    for row, each in zip(stacked, pieces, strict=True):
        row[: each.pixels.shape[0], : each.pixels.shape[1]] = each.pixels
    x = torch.from_numpy(stacked).to(device).double()  # b h w 3
    for axis in (1, 0):
        spans = torch.tensor(
            [each.span(axis) for each in pieces], dtype=torch.float64, device=device
        )
        weights = resize_weights(spans, x.shape[axis + 1], size, interpolation)
        if axis:
            x = x.transpose(1, 2)  # b w h 3
        levels = weights @ x.flatten(2)  # b size (h or size)*3
        x = ((levels + 2 ** (BITS - 1)) / 2**BITS).floor().clamp(0, 255)
        x = x.unflatten(2, (-1, 3))
        if axis:
            x = x.transpose(1, 2)  # b h size 3
    return x.to(torch.uint8)


def resize_weights(
    spans: Float[Tensor, "b 3"],
    padded: int,
    size: int,
    interpolation: Interpolation,
) -> Float[Tensor, "b size padded"]:
    """Return Pillow's weights of every pixel in every new one: whole numbers, 2^BITS in sum.

    Args:
        spans: of each image, start and length of the box along this axis, in pixels, and how many
            pixels there are; the rest up to `padded` counts nothing.
    """
    start, length, pixels = spans.unsqueeze(-1).unbind(dim=1)  # b 1
    kernel, support = KERNELS[interpolation]
    steps = torch.arange(size, dtype=torch.float64, device=spans.device) + 0.5
    scale = length / size
    wide = scale.clamp(min=1.0)
    centre = start + steps * scale  # b size
    first = (centre - support * wide + 0.5).trunc().clamp(min=0)
    last = torch.minimum((centre + support * wide + 0.5).trunc(), pixels)
    places = torch.arange(padded, dtype=torch.float64, device=spans.device)
    away = (places - centre[..., None] + 0.5) * (1 / wide)[..., None]  # b size padded
    inside = (places >= first[..., None]) & (places < last[..., None])
    fine = (kernel(away) * inside * 2**FINE).round()
    shares = fine / fine.sum(dim=-1, keepdim=True) * 2**BITS
    return (shares + shares.sign() / 2).trunc()


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Return Keys's cubic, with a = -1/2 (IEEE Transactions on ASSP 29, 1981, equation 15)."""
    x = x.abs()
    near = ((1.5 * x - 2.5) * x) * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


KERNELS: Mapping[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
}


def colour(
    images: UInt8[Tensor, "b h w 3"], draws: Sequence[Draw], strengths: Sequence[float]
) -> UInt8[Tensor, "b h w 3"]:
    """Flip images and change their colours, as torchvision's ColorJitter does with PIL images.

    Args:
        strengths: of brightness, contrast, saturation and hue; 0 leaves one out.
    """
    device = images.device
    flip = torch.tensor([each.flip for each in draws], device=device)
    images = torch.where(flip[:, None, None, None], images.flip(2), images)
    if not any(strengths):
        return images
    factors = torch.tensor([each.factors for each in draws], dtype=torch.float64, device=device)
    order = torch.tensor([each.order for each in draws], device=device)
    x = images.double()
    for turn in range(order.shape[1]):
        for kind, change in enumerate(CHANGES):
            chosen = (order[:, turn] == kind).nonzero()[:, 0]
            if strengths[kind] and len(chosen):
                x[chosen] = change(x[chosen], factors[chosen, kind][:, None, None, None])
    return x.to(torch.uint8)


def _blend(x: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """Go from another image through this one, as Pillow's ImageEnhance; levels are cut off."""
    return (other + factor * (x - other)).clamp(0, 255).floor()


def _grey(x: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b h w 1"]:
    """Return Pillow's mode L: ITU-R 601-2, in whole numbers."""
    weights = x.new_tensor([19595, 38470, 7471])
    return ((x * weights).sum(dim=-1, keepdim=True) / 2**16 + 0.5).floor()


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(x, 0.0, factor)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    grey = _grey(x)
    mean = grey.sum(dim=(1, 2, 3), keepdim=True) / grey[0].numel()
    return _blend(x, (mean + 0.5).floor(), factor)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(x, _grey(x), factor)


def _hue(x: Float[Tensor, "b h w 3"], shift: Float[Tensor, "b 1 1 1"]) -> Float[Tensor, "b h w 3"]:
    """Turn the hue; value and chroma stay (Smith, SIGGRAPH 1978)."""
    value, chroma = x.amax(dim=-1, keepdim=True), x.amax(dim=-1) - x.amin(dim=-1)
    r, g, b = x.unbind(dim=-1)
    apart = chroma.clamp(min=1)  # of whole levels: 0 where there is no hue
    sector = torch.where(
        r == value[..., 0],
        (g - b) / apart,
        torch.where(g == value[..., 0], 2 + (b - r) / apart, 4 + (r - g) / apart),
    )
    turned = sector.unsqueeze(-1) + 6 * shift
    k = (turned + turned.new_tensor([5.0, 3.0, 1.0])) % 6  # of red, green and blue
    below = torch.minimum(k, 4 - k).clamp(0, 1)
    return (value - chroma.unsqueeze(-1) * below + 0.5).floor()


CHANGES = (_brightness, _contrast, _saturation, _hue)

"""Augmentation for train_clip_s.py: another place, another colour, another way of drawing.

Images are float RGBA in 0..1, premultiplied by alpha, as batches [b, 4, s, s]. What is drawn anew
(lines, ink) is made of the images given, by edges and thresholds of brightness; no other image
takes part.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# How often an image is drawn in each way.
WAYS = {"plain": 0.28, "colour": 0.24, "grey": 0.08, "line": 0.13, "ink": 0.15, "outlined": 0.12}
MOVED, BACKGROUND, ERASED, INVERTED = 0.8, 0.25, 0.15, 0.04  # how often
LUMINANCE = (0.299, 0.587, 0.114)


class Augment:
    """Draw a batch anew; the generator decides all."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def __call__(self, rgba: Tensor) -> Tensor:
        """Return RGB in 0..1, [b, 3, s, s], of premultiplied RGBA [b, 4, s, s]."""
        rgba = self.move(rgba)
        out = over(rgba, self.background(len(rgba)))
        way = torch.multinomial(
            torch.tensor(list(WAYS.values())), len(rgba), True, generator=self.generator
        )
        for index, name in enumerate(WAYS):
            rows = (way == index).nonzero()[:, 0]
            if len(rows) and name != "plain":
                out[rows] = getattr(self, name)(rgba[rows], out[rows])
        inverted = self.chance(len(out), INVERTED)
        out = torch.where(inverted, 1 - out, out)
        return self.erase(out).clamp(0, 1)

    def uniform(self, count: int, low: float, high: float) -> Tensor:
        """Return random numbers [count, 1, 1, 1]."""
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=self.generator)

    def chance(self, count: int, often: float) -> Tensor:
        """Return true so often, [count, 1, 1, 1]."""
        return self.uniform(count, 0, 1) < often

    def move(self, rgba: Tensor) -> Tensor:
        """Turn, stretch and shift most images."""
        b = len(rgba)

        def draw(low: float, high: float) -> Tensor:
            return self.uniform(b, low, high).flatten()

        angle, zoom, aspect, shear = draw(-0.3, 0.3), draw(0.9, 1.35), draw(-0.12, 0.12), 0.15
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        theta = torch.stack(
            [
                torch.stack([cos * aspect.exp(), -sin + draw(-shear, shear), draw(-0.15, 0.15)], 1),
                torch.stack([sin, cos / aspect.exp(), draw(-0.15, 0.15)], 1),
            ],
            1,
        )  # b 2 3
        grid = F.affine_grid(theta, list(rgba.shape), align_corners=False)
        moved = F.grid_sample(rgba, grid, align_corners=False)
        return torch.where(self.chance(b, MOVED), moved, rgba)

    def background(self, count: int) -> Tensor:
        """Return colours [count, 3, 1, 1], mostly white."""
        colour = torch.rand(count, 3, 1, 1, generator=self.generator)
        return torch.where(self.chance(count, BACKGROUND), colour, torch.ones(()))

    def colour(self, _: Tensor, rgb: Tensor) -> Tensor:
        """Turn the hue, and change saturation, contrast and brightness."""
        b = len(rgb)
        turn = self.uniform(b, -math.pi, math.pi) * self.chance(b, 0.5)
        saturation, contrast = self.uniform(b, 0.2, 1.6), self.uniform(b, 0.6, 1.4)
        grey = luminance(rgb)
        chroma = (rgb - grey) * saturation
        axis = torch.full((3,), 3**-0.5).view(1, 3, 1, 1)
        cross = torch.cross(axis.expand_as(chroma), chroma, dim=1)
        along = axis * (axis * chroma).sum(1, keepdim=True)
        turned = chroma * turn.cos() + cross * turn.sin() + along * (1 - turn.cos())
        return (grey + turned - 0.5) * contrast + 0.5 + self.uniform(b, -0.2, 0.2)

    def grey(self, _: Tensor, rgb: Tensor) -> Tensor:
        """Leave the brightness."""
        return luminance(rgb).expand_as(rgb)

    def line(self, rgba: Tensor, _: Tensor) -> Tensor:
        """Draw the edges, black on white."""
        return (1 - self.edges(rgba)).expand(-1, 3, -1, -1)

    def outlined(self, rgba: Tensor, rgb: Tensor) -> Tensor:
        """Draw the edges in black over lighter colours."""
        light = self.uniform(len(rgb), 0, 0.8)
        return (rgb + (1 - rgb) * light) * (1 - self.edges(rgba))

    def ink(self, rgba: Tensor, _: Tensor) -> Tensor:
        """Draw in two tones: what is darker, or what is brighter, than a threshold; or all of it.

        In half of the cases the edges stay white inside of what is black.
        """
        b = len(rgba)
        grey = luminance(over(rgba, torch.ones(b, 3, 1, 1)))
        inside = rgba[:, 3:] > 0.5
        weight = inside.float()
        total = weight.sum((2, 3), keepdim=True).clamp(min=1)
        mean = (grey * weight).sum((2, 3), keepdim=True) / total
        spread = (((grey - mean) ** 2 * weight).sum((2, 3), keepdim=True) / total).sqrt()
        dark = grey < mean + spread * self.uniform(b, -1, 1)
        which = self.uniform(b, 0, 1)
        black = inside & torch.where(which < 0.5, dark, torch.where(which < 0.75, ~dark, inside))
        cut = self.edges(rgba) * (self.chance(b, 0.5) | (which >= 0.75))
        return (1 - black.float() * (1 - cut)).expand(-1, 3, -1, -1)

    def edges(self, rgba: Tensor) -> Tensor:
        """Return where colour or alpha changes, 0 or 1, [b, 1, s, s], in lines of some width."""
        b = len(rgba)
        picture = torch.cat([over(rgba, torch.ones(b, 3, 1, 1)), rgba[:, 3:]], 1)
        kernel = torch.tensor([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]]) / 4
        kernels = torch.stack([kernel, kernel.T]).unsqueeze(1).repeat(4, 1, 1, 1)  # 8 1 3 3
        padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
        slope = F.conv2d(padded, kernels, groups=4).abs().amax(1, keepdim=True)
        edge = (slope > self.uniform(b, 0.08, 0.35)).float()
        thick = F.max_pool2d(edge, 3, 1, 1)
        return torch.where(self.chance(b, 0.4), thick, edge)

    def erase(self, rgb: Tensor) -> Tensor:
        """Cover a rectangle of some images with one colour."""
        b, _, side, _ = rgb.shape
        at = torch.arange(side).view(1, 1, 1, side) / side
        low, high = self.uniform(b, -0.1, 0.8), self.uniform(b, 0.1, 0.35)
        across = (at >= low) & (at < low + high)
        low, high = self.uniform(b, -0.1, 0.8), self.uniform(b, 0.1, 0.35)
        down = ((at >= low) & (at < low + high)).transpose(2, 3)
        colour = torch.rand(b, 3, 1, 1, generator=self.generator)
        return torch.where(across & down & self.chance(b, ERASED), colour, rgb)


def over(rgba: Tensor, background: Tensor) -> Tensor:
    """Lay premultiplied RGBA on a colour."""
    return rgba[:, :3] + (1 - rgba[:, 3:]) * background


def luminance(rgb: Tensor) -> Tensor:
    """Return the brightness [b, 1, s, s]."""
    return (rgb * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)

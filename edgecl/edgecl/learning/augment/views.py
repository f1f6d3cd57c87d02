"""The pictures of one task, and the views of them that its training sees."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from edgecl.backbones import Preprocess
from edgecl.backbones.vit import Features
from edgecl.learning.augment.augmentation import FRESH, Augmentation, Plan
from edgecl.learning.augment.draws import Draw, draw, key_of
from edgecl.learning.augment.rendering import colour, piece, resize
from edgecl.program.learned import Tensors
from edgecl.reading.reader import in_order
from edgecl.reading.scratch import Scratch
from edgecl.streams import ImageSet
from edgecl_deploy.images.opening import Margins
from edgecl_deploy.images.pixels import to_rgb
from edgecl_deploy.images.preparing import FILTERS
from edgecl_deploy.images.quiet import quiet
from edgecl_deploy.progress import Reporter

ROOM = 1 << 24  # bytes of scratch that are taken first, for many pictures; then twice as many
MOST = 1 << 30  # bytes that are taken at once: each room may hold a file open
CHUNK = 1024  # images of which a view is rendered at once, where all are needed
Seen: TypeAlias = "tuple[Features | None, Tensors]"  # plain features, those of the teachers


@dataclass(frozen=True, eq=False)
class Canvas:
    """A whole picture, of which views are crops.

    Attributes:
        pixels: uint8 [h, w, 3], at most `Augmentation.canvas` times the square's side each way:
            larger pictures are squashed.
        sides: width and height before that.
    """

    pixels: NDArray[np.uint8]
    sides: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image, preprocess: Preprocess, augmentation: Augmentation) -> "Canvas":
        """Keep a picture whole, whatever the fit, on the background and in the window."""
        most = int(augmentation.canvas * preprocess.size)
        margins = Margins.of(image)
        with quiet():
            image = to_rgb(image, preprocess.background, preprocess.window)
        box = (
            margins.left,
            margins.top,
            image.width - margins.right,
            image.height - margins.bottom,
        )
        sides = max(1, round(box[2] - box[0])), max(1, round(box[3] - box[1]))
        kept = min(sides[0], most), min(sides[1], most)
        if kept != image.size or any(margins):
            image = image.resize(kept, FILTERS[augmentation.interpolation], box)
        return cls(np.array(image), sides)

    @property
    def digest(self) -> bytes:
        """Return what the picture is known by."""
        shape = f"{self.sides} {self.pixels.shape} ".encode()
        return hashlib.sha256(shape + self.pixels.tobytes()).digest()


def canvases_of(
    images: ImageSet,
    positions: Sequence[int],
    preprocess: Preprocess,
    augmentation: Augmentation,
    reporter: Reporter,
    scratch: Scratch,
    workers: int = 0,
) -> list[Canvas]:
    """Decode pictures and keep them whole.

    Args:
        positions: of those that can be read.
        scratch: room for them.
        workers: threads that decode.
    """

    def work(item: int) -> Canvas:
        image = images.image(positions[item], preprocess.least_side)
        return Canvas.of(image, preprocess, augmentation)

    found: list[Canvas] = []
    room, used, wanted = scratch.empty((0,), np.uint8), 0, ROOM
    with reporter.bar("whole pictures", len(positions)) as advance:
        for canvas in in_order(work, len(positions), workers):
            size = canvas.pixels.size
            if used + size > len(room):
                room, used = scratch.empty((max(size, wanted),), np.uint8), 0
                wanted = min(2 * wanted, MOST)
            kept = room[used : used + size].reshape(canvas.pixels.shape)
            kept[:] = canvas.pixels
            used += size
            found.append(Canvas(kept, canvas.sides))
            advance()
    return found


@dataclass(eq=False)
class Views:
    """What each epoch of a training sees in place of the images.

    Epoch e reads the view e, or e modulo `count` where the plan has so many.

    Attributes:
        canvases: of all images that train, remembered ones last: of these the run has the square
            alone, so their views are crops of it.
        size: of the square, in pixels.
        look: returns what of the square images the training needs besides their pixels; None
            where that is nothing.
        scratch: room for those images.
    """

    plan: Plan
    canvases: Sequence[Canvas]
    seed: int
    size: int
    device: torch.device
    look: Callable[[NDArray[np.uint8]], Seen] | None
    scratch: Scratch = field(default_factory=Scratch)
    _keys: list[int] = field(init=False)
    _seen: dict[int, Seen] = field(init=False, default_factory=dict)
    _squares: tuple[int, NDArray[np.uint8]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._keys = [key_of(self.seed, canvas.digest) for canvas in self.canvases]

    @property
    def again(self) -> int:
        """Return how many views come again, so that what is computed of them is worth keeping."""
        return 0 if self.plan.count == FRESH else int(self.plan.count)

    def number(self, epoch: int) -> int:
        """Return the view that an epoch (from 0) reads."""
        return epoch % self.again if self.again else epoch

    def drawn(self, image: int, view: int) -> Draw:
        """Return what a view of an image is."""
        sides = self.canvases[image].sides
        return draw(self.plan.augmentation, self._keys[image], view, sides)

    def pixels(self, index: Int[Tensor, " b"], view: int) -> UInt8[Tensor, "b h w 3"]:
        """Return a view of some of the images, on the device."""
        if self._squares is not None and self._squares[0] == view:
            return torch.from_numpy(self._squares[1][index.numpy()]).to(self.device)
        augmentation = self.plan.augmentation
        images = index.tolist()
        draws = [self.drawn(image, view) for image in images]
        pieces = [
            piece(self.canvases[image].pixels, self.canvases[image].sides, each.box)
            for image, each in zip(images, draws, strict=True)
        ]
        squares = resize(pieces, self.size, augmentation.interpolation, self.device)
        return colour(squares, draws, augmentation.colours)

    def seen(self, view: int) -> Seen:
        """Return what the training needs of a view of all images; of one that comes again, kept.

        Its pixels are kept until the next view is looked at: the epoch trains on them.
        """
        if self.look is None:
            return None, {}
        if view in self._seen:
            return self._seen[view]
        self._squares = None  # room for the next
        shape = (len(self.canvases), self.size, self.size, 3)
        squares = self.scratch.empty(shape, np.uint8)
        for start in range(0, len(squares), CHUNK):
            some = torch.arange(start, min(start + CHUNK, len(squares)))
            squares[start : start + CHUNK] = self.pixels(some, view).cpu().numpy()
        found = self.look(squares)
        self._squares = view, squares
        if self.again:
            self._seen[view] = found
        return found


def with_squares(canvases: Sequence[Canvas], images: UInt8[Tensor, "n h w 3"]) -> list[Canvas]:
    """Add images of which only the square is there."""
    return [*canvases, *(Canvas(each.numpy(), (each.shape[1], each.shape[0])) for each in images)]

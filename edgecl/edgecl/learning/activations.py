"""Caches of one task's training: no frozen computation runs twice.

With a frozen backbone the inputs of the first injected block are the same in every epoch that reads
the same view of the images; if nothing injected is trained, so are the output features. Images that
are not augmented have one view; fresh views never come again, and nothing of them is kept.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from edgecl.backbones.sites import Injection, Pixels, ScaleShift
from edgecl.backbones.vit import Features, ViT
from edgecl.learning.augment.views import Views
from edgecl.program import BackboneModel
from edgecl.program.learned import Tensors

LIMIT = 1 << 30  # bytes of a task's cached activations, of all views; more is computed again


class TensorCache:
    """Tensors with one row per image, or per view of it, filled batch by batch."""

    def __init__(self, images: int):
        self._known = torch.zeros(images, dtype=torch.bool)
        self._tensors: Tensors = {}

    def get(self, index: Int[Tensor, " b"]) -> Tensors | None:
        """Return the tensors of some images, None unless all are cached."""
        if not len(self._known) or not self._known[index].all():
            return None
        return {name: tensor[index.to(tensor.device)] for name, tensor in self._tensors.items()}

    def put(self, index: Int[Tensor, " b"], tensors: Tensors) -> None:
        """Store the tensors of some images, unless those of all would need more than `LIMIT`."""
        images = len(self._known)
        if not images or sum(tensor[0].nbytes for tensor in tensors.values()) * images > LIMIT:
            return
        for name, tensor in tensors.items():
            if name not in self._tensors:
                self._tensors[name] = tensor.new_empty(images, *tensor.shape[1:])
            self._tensors[name][index.to(tensor.device)] = tensor.detach()
        self._known[index] = True

    def clear(self) -> None:
        """Forget all images."""
        self._known[:] = False


class Activations:
    """The runs of a backbone on the images of one task.

    Args:
        images: as they are tested.
        low: the training computes in bfloat16, so weights that autocast would convert at every use
            are converted once.
        views: what the training sees of the images instead.
    """

    def __init__(
        self,
        backbone: BackboneModel,
        normalise: Callable[[Tensor], Tensor],
        images: UInt8[Tensor, "n h w 3"],
        device: torch.device,
        low: bool,
        views: Views | None = None,
    ):
        self._backbone = to_bfloat16(backbone) if low and isinstance(backbone, ViT) else backbone
        self._normalise = normalise
        self._images = images
        self._views = views
        self._view = 0
        self.device = device
        self._rows = len(images) * (1 if views is None else views.again)  # that come again
        self._streams: dict[int, TensorCache] = {}
        self._features = TensorCache(self._rows)

    def show(self, view: int) -> None:
        """Let the runs that follow read this view of the images."""
        self._view = view

    def _row(self, index: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return where a cache has some of the images, as they are seen now."""
        return index + self._view * len(self._images)

    def no_pixels(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b 3 0 0"]:
        """Return placeholder pixels: a run reads the images themselves where it needs them."""
        return torch.empty(len(index), 3, 0, 0, device=self.device)

    def of(self, index: Int[Tensor, " b"], match_is_constant: bool) -> BackboneModel:
        """Return the backbone that runs on some of the images and ignores the pixels it is given.

        Args:
            match_is_constant: no tensor of the matcher is trained.
        """

        def run(
            pixels: Tensor, injection: Injection = (), taps: int = 0, tokens: bool = False
        ) -> Features:
            times, rest = divmod(len(pixels), len(index))  # of each image, one per branch
            assert not rest, "whole runs of the batch"
            if times > 1 or not (match_is_constant and injection) or is_trained(injection):
                self._features.clear()
                return self._run(index.repeat(times), injection, taps, tokens)
            known = self._features.get(self._row(index))
            if known is not None:
                return Features(**known)
            features = self._backbone(self._pixels(index), injection, taps, tokens)
            self._features.put(self._row(index), features.named())
            return features

        return run

    def _pixels(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b 3 h w"]:
        if self._views is None:
            return self._normalise(self._images[index].to(self.device))
        return self._normalise(self._views.pixels(index, self._view))

    def _run(
        self, index: Int[Tensor, " b"], injection: Injection, taps: int, tokens: bool
    ) -> Features:
        """Start where the injection begins."""
        model = self._backbone
        block = first_block(injection)
        if block is None or not isinstance(model, ViT):
            return model(self._pixels(index), injection, taps, tokens)
        block = min(block, model.config.depth - max(1, taps))
        cache = self._streams.setdefault(block, TensorCache(self._rows))
        known = cache.get(self._row(index))
        if known is None:
            with torch.no_grad():
                known = {"x": model.tokens_before(block, self._pixels(index))}
            cache.put(self._row(index), known)
        return model.run_from(block, known["x"], injection, taps, tokens)


def is_trained(injection: Injection) -> bool:
    """Return whether an injection is trained."""
    tensors = [value for item in injection for value in vars(item).values()]
    return any(tensor.requires_grad for tensor in tensors if isinstance(tensor, Tensor))


def first_block(injection: Injection) -> int | None:
    """Return the first block that an injection enters, None where it begins before all."""
    for item in injection:
        if isinstance(item, Pixels) or (isinstance(item, ScaleShift) and item.point == "patch"):
            return None
    return min((item.block for item in injection if item.block is not None), default=None)


def to_bfloat16(backbone: ViT) -> ViT:
    """Return a copy whose linear layers and convolution are in bfloat16.

    Autocast makes the same of them, at every use: it keeps only what it makes of trained weights.
    """
    copied = copy.deepcopy(backbone)
    for module in copied.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
    return copied

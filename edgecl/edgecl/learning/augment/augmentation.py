"""What is drawn for an augmented view: ranges, as data, and those of public code by name."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from edgecl.config import ConfigError, from_mapping, nearest
from edgecl.errors import EdgeclError
from edgecl.methods import AnyMethod

Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Count: TypeAlias = "int | Literal['fresh']"  # views of an image: so many, or one more per epoch
FRESH: Literal["fresh"] = "fresh"
MOST_VIEWS = 1000
NONE, PAPER = "none", "paper"


class AugmentationError(EdgeclError):
    """An augmentation, or a number of views, that cannot be."""


@dataclass(frozen=True)
class Augmentation:
    """The ranges that a view is drawn from, as torchvision's RandomResizedCrop and ColorJitter."""

    scale: tuple[float, ...] = (0.08, 1.0)  # of a crop's area over the picture's
    ratio: tuple[float, ...] = (3 / 4, 4 / 3)  # of a crop's width over its height
    flip: float = 0.5  # probability that left and right are exchanged
    brightness: float = 0.0  # b: a factor in [max(0, 1 - b), 1 + b]
    contrast: float = 0.0  # likewise
    saturation: float = 0.0  # likewise
    hue: float = 0.0  # h: a part of the colour circle in [-h, h]
    interpolation: Interpolation = "bilinear"  # from the crop to the square
    canvas: float = 2.0  # longest sides of a stored picture, over the side of the square

    def __post_init__(self) -> None:
        wanted = {
            "scale": (_rising(self.scale) and self.scale[-1] <= 1, "two shares in (0, 1], rising"),
            "ratio": (_rising(self.ratio), "two numbers above 0, rising"),
            "flip": (0 <= self.flip <= 1, "in [0, 1]"),
            "brightness": (self.brightness >= 0, ">= 0"),
            "contrast": (self.contrast >= 0, ">= 0"),
            "saturation": (self.saturation >= 0, ">= 0"),
            "hue": (0 <= self.hue <= 0.5, "in [0, 0.5]"),
            "interpolation": (
                self.interpolation in get_args(Interpolation),
                f"one of {', '.join(get_args(Interpolation))}",
            ),
            "canvas": (1 <= self.canvas <= 4, "in [1, 4]"),
        }
        wrong = [
            f"{name} {rule}, got {getattr(self, name)}"
            for name, (holds, rule) in wanted.items()
            if not holds
        ]
        if wrong:
            raise AugmentationError(f"An augmentation needs {'; '.join(wrong)}. Mend --augment.")

    @property
    def colours(self) -> tuple[float, float, float, float]:
        """Return the strengths of brightness, contrast, saturation and hue."""
        return self.brightness, self.contrast, self.saturation, self.hue


def _rising(values: tuple[float, ...]) -> bool:
    return len(values) == 2 and 0 < values[0] <= values[1]


PRESETS: Mapping[str, Augmentation | None] = {
    NONE: None,
    # LAMDA-PILOT, utils/data.py, build_transform
    "pilot": Augmentation(scale=(0.05, 1.0)),
    # l2p-pytorch, datasets.py, build_transform: the same
    "l2p": Augmentation(scale=(0.05, 1.0)),
    # CODA-Prompt, dataloaders/utils.py, get_transform; LAE, libml/data/transform.py; S-Prompts and
    # ESN, utils/data.py, of CORe50 and DomainNet
    "coda": Augmentation(),
    # LayUP, src/data/aug.py, with the defaults of main.py
    "layup": Augmentation(
        scale=(0.7, 1.0), brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1
    ),
    # HiDe-Prompt, datasets.py, build_cifar_transform; SLCA, utils/data.py, iCIFAR100_224
    "hide": Augmentation(brightness=63 / 255, interpolation="bicubic"),
    # ZSCL, mtil/clip/clip.py, _transform
    "zscl": Augmentation(scale=(0.9, 1.0), flip=0.0, interpolation="bicubic"),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """How the images of a run's trainings are augmented.

    Attributes:
        name: of the set, or `own`.
        count: how many views each image has, which the epochs read in turn; or `fresh`, a view of
            its own for every epoch.
    """

    name: str
    augmentation: Augmentation
    count: Count

    def __str__(self) -> str:
        views = "fresh views" if self.count == FRESH else f"{self.count} views of each image"
        return f"{self.name}, {views}"

    @classmethod
    def of(
        cls, augment: str | Mapping[str, Any], views: int | str | None, method: AnyMethod
    ) -> "Plan | None":
        """Return the plan that options ask for; None where training images are plain.

        Args:
            augment: `none`; the name of a set; `paper`, the set of the method's public code; or
                fields of an `Augmentation`, as JSON or a mapping.
            views: 0, a number or `fresh`; None for `fresh`, unless `augment` is `none`.
            method: that is trained.

        Raises:
            AugmentationError: the options are no augmentation, or the method trains nothing.
        """
        name, found = _named(augment, method)
        if views is not None and not _is_count(views):
            raise AugmentationError(
                f"views must be 0, a number up to {MOST_VIEWS} or {FRESH}, got {views!r}. Give one."
            )
        if views == 0:
            return None
        if found is None:
            if views is not None and augment == NONE:
                raise AugmentationError(
                    f"Views must be of an augmentation, got --views {views} without one. Add "
                    "--augment paper, or another set."
                )
            return None
        if method.trains == "never":
            if augment == PAPER:
                return None
            raise AugmentationError(
                f"Only a method that trains by gradient can see augmented images, got {method.name}"
                f" with --augment {name}. Leave it out, or use --augment {PAPER}."
            )
        return cls(name, found, FRESH if views in (None, FRESH) else int(views or 0))

    @staticmethod
    def header(plan: "Plan | None") -> dict[str, Any]:
        """Return what run.json and `--json` hold of it."""
        if plan is None:
            return {"augment": None, "views": 0}
        return {"augment": {"name": plan.name, **asdict(plan.augmentation)}, "views": plan.count}

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> "Plan | None":
        """Read what `header` returned; a run of a time before it is plain.

        Raises:
            AugmentationError: it holds something else.
        """
        values, views = dict(header.get("augment") or {}), header.get("views", 0)
        if not values:
            return None
        if not _is_count(views) or views == 0:
            raise AugmentationError(
                f"The views of a run that augments must be a number or {FRESH}, got {views!r}. "
                "Restore its run.json from a copy."
            )
        name = str(values.pop("name", "own"))
        return cls(name, from_mapping(Augmentation, values, "augment"), views)


def _named(augment: str | Mapping[str, Any], method: AnyMethod) -> tuple[str, Augmentation | None]:
    """Return the name and the ranges that an option asks for.

    Raises:
        AugmentationError: it is neither a name nor JSON of an augmentation.
    """
    if isinstance(augment, str) and augment.lstrip().startswith("{"):
        try:
            augment = dict(json.loads(augment))
        except ValueError as error:
            raise AugmentationError(
                f'An augmentation must be a name, or JSON such as {{"scale": [0.5, 1]}}, got '
                f"{augment!r} ({error}). Mend it."
            ) from error
    if not isinstance(augment, str):
        try:
            return "own", from_mapping(Augmentation, augment, "augment")
        except ConfigError as error:
            raise AugmentationError(str(error)) from error
    name = method.augmentation if augment == PAPER else augment
    if name not in PRESETS:
        names = (*PRESETS, PAPER)
        raise AugmentationError(
            f"An augmentation must be one of {', '.join(names)}, or JSON, got {name!r}. "
            f"{nearest(name, names)}"
        )
    return name, PRESETS[name]


def _is_count(views: int | str) -> bool:
    return views == FRESH or (type(views) is int and 0 <= views <= MOST_VIEWS)

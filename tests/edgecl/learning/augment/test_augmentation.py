"""An augmentation is data: sets by name, the paper's, JSON; what a run's header holds of it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from edgecl.backbones import Backbone, Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.learning.augment.augmentation import PRESETS, Augmentation, AugmentationError, Plan
from edgecl.learning.learner import Learner
from edgecl.methods import AnyMethod, build_method, methods
from edgecl.session import open_learner

OWN = {"scale": [0.5, 1], "flip": 0, "hue": 0.1}


@pytest.fixture
def l2p(tiny_backbone: Backbone) -> AnyMethod:
    return build_method("l2p", BackboneSpec.of(tiny_backbone))


def test_sets_are_those_of_public_code() -> None:
    assert PRESETS["none"] is None
    areas = {name: each.scale for name, each in PRESETS.items() if each is not None}
    assert areas == {
        "pilot": (0.05, 1.0),
        "l2p": (0.05, 1.0),
        "coda": (0.08, 1.0),
        "layup": (0.7, 1.0),
        "hide": (0.08, 1.0),
        "zscl": (0.9, 1.0),
    }
    assert PRESETS["layup"] == Augmentation((0.7, 1.0), (3 / 4, 4 / 3), 0.5, 0.1, 0.1, 0.1, 0.1)
    assert PRESETS["hide"] == Augmentation(brightness=63 / 255, interpolation="bicubic")


@pytest.mark.parametrize("name", methods())
def test_every_method_names_the_set_of_its_paper(name: str, tiny_clip: Clip) -> None:
    method = build_method(name, BackboneSpec.of(tiny_clip))
    preset = PRESETS[method.augmentation]
    plan = Plan.of("paper", 3, method)
    if method.trains == "never" or preset is None:
        assert plan is None
    else:
        assert plan == Plan(method.augmentation, preset, 3)


def test_what_options_ask_for(l2p: AnyMethod) -> None:
    assert Plan.of("none", None, l2p) is None
    assert Plan.of("none", 0, l2p) is None
    assert Plan.of("pilot", 0, l2p) is None
    fresh = Plan.of("coda", None, l2p)
    assert fresh == Plan("coda", Augmentation(), "fresh")
    assert str(fresh) == "coda, fresh views"
    assert str(Plan.of("paper", 4, l2p)) == "l2p, 4 views of each image"
    own = Plan("own", Augmentation((0.5, 1.0), flip=0.0, hue=0.1), 2)
    assert Plan.of(json.dumps(OWN), 2, l2p) == Plan.of(OWN, 2, l2p) == own


@pytest.mark.parametrize(
    ("augment", "views", "message"),
    [
        ("none", 4, "Add --augment paper"),
        ("pilt", 4, r"Did you mean 'pilot'\?"),
        ("{scale}", 4, "Mend it"),
        ({"scal": [0.5, 1]}, 4, r"Did you mean 'scale'\?"),
        ({"scale": [0.5, 2]}, 4, "two shares in .* Mend --augment"),
        ({"ratio": [2, 1], "hue": 0.6}, 4, r"rising, got .*; hue in \[0, 0.5\]"),
        ({"canvas": 0.5}, 4, "Mend --augment"),
        ({"interpolation": "nearest"}, 4, "Pick one of these"),
        ("pilot", -1, "Give one"),
        ("pilot", True, "Give one"),
        ("pilot", 1001, "up to 1000"),
        ("pilot", "often", "or fresh, got 'often'"),
    ],
)
def test_options_that_cannot_be(augment: Any, views: Any, message: str, l2p: AnyMethod) -> None:
    with pytest.raises(AugmentationError, match=message):
        Plan.of(augment, views, l2p)


def test_a_method_that_trains_nothing_has_no_augmentation(tiny_backbone: Backbone) -> None:
    method = build_method("simplecil", BackboneSpec.of(tiny_backbone))
    with pytest.raises(AugmentationError, match="use --augment paper"):
        Plan.of("pilot", 4, method)


def test_a_run_goes_on_as_it_began(make_learner: Callable[..., Learner]) -> None:
    learner = make_learner("l2p", augment=OWN, views=3)
    header = json.loads((learner.run.path / "run.json").read_text())
    assert header["views"] == 3
    assert header["augment"] == {
        **json.loads(json.dumps(asdict(Augmentation((0.5, 1.0), flip=0.0, hue=0.1)))),
        "name": "own",
    }
    opened = open_learner(learner.run.path, device="cpu", backbone=learner.towers)
    assert (
        opened.plan == learner.plan == Plan("own", Augmentation((0.5, 1.0), flip=0.0, hue=0.1), 3)
    )
    learner.run.change(views="often")
    with pytest.raises(AugmentationError, match=r"Restore its run\.json"):
        open_learner(learner.run.path, device="cpu", backbone=learner.towers)


def test_a_run_of_former_times_is_plain() -> None:
    assert Plan.from_header({"method": "l2p"}) is None
    assert Plan.header(None) == {"augment": None, "views": 0}

"""APER: a frozen branch next to one that was adapted on the first task."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.edgecl.support import NOTHING
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone, Features, ViT, ViTConfig
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import Method, build_method, methods
from edgecl.methods.shared.two_branches import TwoBranches
from edgecl.program.classifiers import Encoded
from edgecl.program.injectors import LowRankChange
from edgecl.program.injectors.low_rank import TARGETS
from edgecl.program.learned import Tensors
from edgecl.session import learn_stream

D, HIDDEN, DEPTH = 192, 768, 2
APER = sorted(name for name, method in methods().items() if issubclass(method, TwoBranches))
VPT = ("vpt-shallow", "vpt-deep")
MakeLearner = Callable[..., Learner]


def product(tensors: Tensors, target: str) -> Tensor:
    return tensors[f"{target}_a"].double() @ tensors[f"{target}_b"].double()


def built(backbone: Backbone, name: str, **config: Any) -> Method:
    return build_method(name, BackboneSpec.of(backbone), config)


def test_there_are_five_branches() -> None:
    assert APER == [
        "aper-adapter", "aper-finetune", "aper-ssf", "aper-vpt-deep", "aper-vpt-shallow",
    ]  # fmt: skip


@pytest.mark.parametrize("name", APER)
def test_the_features_of_two_passes_stand_side_by_side_and_raw(
    tiny_backbone: Backbone, name: str
) -> None:
    method = built(tiny_backbone, name)
    assert method.program.passes == ("plain", "injected")
    torch.manual_seed(0)
    plain, adapted = torch.randn(3, D), 50 * torch.randn(3, D)
    encoded = Encoded(Features(plain, plain * 0), NOTHING, Features(adapted, adapted * 0))
    feature = method.program.classifier.feature(encoded)
    assert torch.equal(feature, torch.cat([plain, adapted], dim=1))
    # A branch of larger norm decides: the cosine is that of the raw concatenation (trap T11).
    prototypes = torch.randn(4, 2, D)
    scores = method.program.classifier.scores(encoded, {"prototypes": prototypes})
    torch.testing.assert_close(
        scores, F.cosine_similarity(feature[:, None], prototypes.flatten(1)[None], dim=-1)
    )


@pytest.mark.parametrize("name", APER)
def test_a_branch_is_learned_once_and_never_ships_again(
    make_learner: MakeLearner, make_stream: Callable[..., Any], name: str
) -> None:
    stream = make_stream(train=3)
    learner = make_learner(name, stream)
    learn_stream(learner, stream)
    injected = learner.method.program.injector.declare().keys()
    first, *later = learner.run.parts()
    assert injected < first.keys()
    assert all(part.keys() == {"prototypes"} for part in later)
    # The means are of the features that the device will make.
    images = learner.load(stream.tasks[0].train, "").images
    feature = learner.predict(images).feature
    labels = torch.tensor(stream.tasks[0].train.labels)
    means = torch.stack([feature[labels == row].mean(dim=0) for row in (0, 1)])
    torch.testing.assert_close(first["prototypes"].flatten(1), means, atol=1e-4, rtol=1e-4)


def test_the_cut_is_made_behind_the_training(
    make_learner: MakeLearner, make_stream: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = make_stream(train=3)
    whole: list[Tensors] = []
    cut = LowRankChange.cut

    def watched(self: LowRankChange, tensors: Tensors) -> Tensors:
        whole.append(tensors)
        return cut(self, tensors)

    monkeypatch.setattr(LowRankChange, "cut", watched)
    learner = make_learner("aper-finetune", stream, config={"rank": 3})
    learn_stream(learner, stream)
    (before,) = whole
    part = learner.run.part(0)
    for target in TARGETS:
        change, short = product(before, target), product(part, target)
        assert torch.linalg.matrix_rank(change[0]) > 3
        assert torch.linalg.matrix_rank(short[0].float(), rtol=1e-5) <= 3
        lost = (change - short).norm() / change.norm()
        assert 0 < lost < 1


@pytest.mark.parametrize("name", ["aper-vpt-shallow", "aper-vpt-deep", *VPT])
def test_a_prompt_needs_a_row(tiny_backbone: Backbone, name: str) -> None:
    with pytest.raises(MethodError, match=r"vpt\.length must be at least 1, got 0\. Raise it"):
        built(tiny_backbone, name, length=0)


@pytest.mark.parametrize(("rank", "action"), [(0, "Raise it"), (D + 1, "192 is exact")])
def test_a_rank_that_is_none(tiny_backbone: Backbone, rank: int, action: str) -> None:
    with pytest.raises(MethodError, match=action):
        built(tiny_backbone, "aper-finetune", rank=rank)


def test_widths_are_those_of_the_stream_and_not_of_the_features() -> None:
    config = ViTConfig(
        image_size=8, patch=4, width=12, depth=2, heads=2, mlp_ratio=3.0, projection=5
    )
    model = ViT(config).eval()
    spec = BackboneSpec(5, 2, ViT.sites, "0" * 64, 12, 36)
    pixels = torch.randn(2, 3, 8, 8)
    for name in (*APER, *VPT):
        rank = {"rank": 4} if name in {"aper-adapter", "aper-finetune"} else {}
        injector = build_method(name, spec, rank).program.injector
        learned = {key: torch.randn(item.shape(2)) for key, item in injector.declare().items()}
        with torch.no_grad():
            found = model(pixels, injector.sites(injector.fill(NOTHING, learned)))
        assert found.cls.shape == (2, 5)
    assert spec.width == 12
    assert spec.mlp == 36
    assert BackboneSpec(8, 1, ViT.sites, "").width == 8
    assert BackboneSpec(8, 1, ViT.sites, "").mlp == 32
    assert BackboneSpec.from_json(spec.to_json()) == spec

"""LayUP: [CLS] after several blocks, and how the weight of the ridge is chosen."""

import pytest
import torch
from torch import Tensor

from edgecl.backbones import Backbone
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.methods import build_method
from edgecl.methods.layup import WEIGHTS as LAYUP_WEIGHTS
from edgecl.methods.layup import Taps
from edgecl.program.classifiers.ridge import Rows, Sums, one_hot

D, COUNT, CLASSES = 12, 90, 6


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = 30 * torch.randn(COUNT, D, generator=generator)
    return features, torch.arange(COUNT) % CLASSES


# -- LayUP


def test_layup_takes_the_largest_of_the_weights_that_are_best_on_unseen_folds(
    data: tuple[Tensor, Tensor],
) -> None:
    noise, classes = data
    features = 0.02 * noise + 1.5 * one_hot(classes, D).float()
    features[:, -1] += 20  # what all images share: a large weight cannot take it off
    former = Sums.of(features[:30], classes[:30], CLASSES)
    new, own = features[30:], classes[30:]
    total = former.plus(Sums.of(new, own, CLASSES))
    right = dict.fromkeys(LAYUP_WEIGHTS, 0)
    for fold in range(4):  # ten images of each class, in turn
        held = torch.arange(60) // CLASSES % 4 == fold
        seen = former.plus(Sums.of(new[~held], own[~held], CLASSES))
        for each in right:
            scores = new[held].double() @ seen.solve(each)
            right[each] += int((scores.argmax(dim=1) == own[held]).sum())
    best = max(right.values())
    assert min(right.values()) < best
    want = max(each for each, count in right.items() if count == best)
    classifier = Taps(D, "plain", D)
    assert classifier.choose(new, own, total, torch.Generator()) == want
    part = classifier.deal(own, torch.Generator())
    assert part.tolist() == [image // CLASSES % 4 for image in range(60)]
    rows = Rows(new, own, CLASSES, lambda some: some)
    assert classifier.choose_by_parts(rows, part, rows.sums(part, D), total) == want


def test_layup_reads_as_many_blocks_as_there_are(tiny_backbone: Backbone) -> None:
    spec = BackboneSpec.of(tiny_backbone)
    both = build_method("layup", spec).program
    assert both.taps == 2
    one = build_method("layup", spec, {"taps": 1}).program
    assert one.taps == 1
    assert one.declare()["head_weight"].sizes == {"m": 192}
    assert one.interface != both.interface


def test_taps_are_cls_behind_each_block(tiny_backbone: Backbone) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: seen.append(out[:, 0]))
        for block in tiny_backbone.model.blocks  # type: ignore[union-attr]
    ]
    with torch.no_grad():
        taps = tiny_backbone.model(pixels, taps=2).taps
        last = tiny_backbone.model(pixels, taps=1).taps
        assert tiny_backbone.model(pixels).taps is None
    for hook in hooks:
        hook.remove()
    assert taps is not None
    assert last is not None
    assert torch.equal(taps, torch.stack(seen[:2], dim=1))
    assert torch.equal(last, taps[:, 1:])
    with pytest.raises(Exception, match=r"taps must be in \[0, 2\].*got 3. Use a deeper backbone"):
        tiny_backbone.model(pixels, taps=3)


# -- both


def test_a_backbone_without_blocks_has_no_taps() -> None:
    spec = BackboneSpec(8, 0, frozenset(), "ab" * 32)
    with pytest.raises(MethodError, match=r"last 1 blocks .* got one with 0. Use a ViT"):
        build_method("layup", spec, {"first_session": "none"})
    assert build_method("ranpac", spec, {"first_session": "none"}).program.passes == ("plain",)

"""PROOF: fusion as it is written in books, maps that add up, and rows of the memory."""

import math
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.learning.evaluation import widened
from edgecl.learning.exemplars import CLASS_ROWS, ExemplarError
from edgecl.learning.learner import Learner
from edgecl.learning.training import train_task
from edgecl.methods import build_method
from edgecl.methods.base import Batch
from edgecl.methods.proof import Proof, ProofConfig
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.fusion import NORM_EPS, FusedTexts, Fusion
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.program.statistics import class_means
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]

WIDTH, CLASSES = 8, 5


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_learned(seed: int = 0) -> Tensors:
    """Return tensors that all matter: no scale is one, no bias zero."""
    sizes = {"f": WIDTH, "g": WIDTH, "c": CLASSES, "m": 6}
    return {
        name: some(*(sizes[axis] for axis in item.axis_names), seed=seed + index)
        for index, (name, item) in enumerate(FusedTexts(WIDTH, 2.0).declare().items())
    }


def encoded(features: Tensor) -> Encoded:
    nothing = torch.zeros(len(features), 1)
    return Encoded(Features(features, features), Match(nothing.long(), nothing), None)


def attention(tokens: Tensor, learned: Tensors) -> Tensor:
    """Return self-attention of tokens [n, f] with residual and LayerNorm, as the paper has it."""
    query, key, value = (tokens @ learned[f"fusion_{kind}"].T for kind in ("query", "key", "value"))
    weights = (query @ key.T / math.sqrt(tokens.shape[1])).softmax(dim=-1)
    out = weights @ value @ learned["fusion_out"].T + learned["fusion_out_bias"]
    scale, shift = learned["fusion_scale"], learned["fusion_shift"]
    return F.layer_norm(tokens + out, tokens.shape[1:], scale, shift, NORM_EPS)


def test_fusion_is_attention_over_the_image_and_all_rows() -> None:
    learned, images = random_learned(), some(4, WIDTH, seed=50)
    rows, others = some(7, WIDTH, seed=51), some(3, WIDTH, seed=52)
    fused, of_rows = Fusion(WIDTH)(images, rows, others, learned)
    for index, image in enumerate(images):
        want = attention(torch.cat([image[None], rows, others]), learned)
        torch.testing.assert_close(fused[index], want[0])
        torch.testing.assert_close(of_rows[index], want[1:8])


def test_fusion_has_the_gradients_of_that_attention() -> None:
    learned = {name: tensor.requires_grad_() for name, tensor in random_learned().items()}
    names = sorted(Fusion(WIDTH).declare())
    images, rows, others = some(2, WIDTH, seed=50), some(4, WIDTH, seed=51), some(3, WIDTH, seed=52)
    weight = some(2, 5, WIDTH, seed=53)
    fused, of_rows = Fusion(WIDTH)(images, rows, others, learned)
    ours = (torch.cat([fused[:, None], of_rows], dim=1) * weight).sum()
    tokens = [torch.cat([image[None], rows, others]) for image in images]
    want = (torch.stack([attention(each, learned)[:5] for each in tokens]) * weight).sum()
    leaves = [learned[name] for name in names]
    pairs = zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(want, leaves), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_logits_by_hand() -> None:
    learned, images = random_learned(), some(3, WIDTH, seed=60)
    classifier = FusedTexts(WIDTH, 2.0)
    logits = classifier.logits(encoded(images), learned)

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    texts = unit(learned["texts"] @ learned["text_map"].T)
    prototypes = unit(learned["prototypes"] @ learned["image_map"].T)
    for index, image in enumerate(unit(unit(images) @ learned["image_map"].T)):
        rows = attention(torch.cat([image[None], prototypes, texts, learned["contexts"]]), learned)
        torch.testing.assert_close(logits.mapped[index], math.exp(2.0) * texts @ image)
        torch.testing.assert_close(logits.prototypes[index], rows[1 : 1 + CLASSES] @ rows[0])
        torch.testing.assert_close(
            logits.texts[index], rows[1 + CLASSES : 1 + 2 * CLASSES] @ rows[0]
        )
    torch.testing.assert_close(
        classifier.scores(encoded(images), learned), torch.stack(logits).sum(dim=0)
    )


def test_fused_rows_do_not_depend_on_other_images() -> None:
    """The public code takes their mean over the batch."""
    learned, images = random_learned(), some(6, WIDTH, seed=60)
    classifier = FusedTexts(WIDTH, 2.0)
    together = classifier.scores(encoded(images), learned)
    alone = torch.cat([classifier.scores(encoded(image[None]), learned) for image in images])
    torch.testing.assert_close(together, alone)
    fused, of_rows = Fusion(WIDTH)(images, learned["texts"], learned["contexts"], learned)
    assert (of_rows - of_rows.mean(dim=0)).abs().max() > 1e-2, "they are the image's own"
    assert fused.shape == images.shape


def test_before_it_trains_the_mapped_logits_are_clip_s(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    start = {"schedule": {"epochs": 0}}
    learner = make_learner("proof", stream, config=start)
    learn_stream(learner, stream)
    clip = make_learner("zero-shot", stream, out="clip")
    learn_stream(clip, stream)
    images = learner.load(stream.tasks[0].test, "").images
    assert isinstance(learner.method, Proof)
    plain = learner.encoder.plain(images)
    assert plain is not None
    logits = learner.method.program.classifier.logits(encoded(plain.cls), learner.learned())
    torch.testing.assert_close(logits.mapped, clip.predict(images).scores)


def test_merged_maps_are_the_sum_of_the_tasks_own(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three maps of images, added: their outputs add up as the outputs of the merged one."""
    stream = make_stream()
    learner = make_learner("proof", stream, config={"schedule": {"epochs": 3, "lr": 0.01}})
    added: list[Tensors] = []

    def watched(*args: object) -> Tensors:
        ends: Tensors = train_task(*args)  # type: ignore[arg-type]
        added.append({name: ends[name] for name in learner.method.local()})
        return ends

    monkeypatch.setattr("edgecl.learning.learner.train_task", watched)
    learn_stream(learner, stream)
    assert len(added) == 3
    features = some(4, 192, seed=70)
    for kind in ("image", "text"):
        own = [part[f"{kind}_map_added"] for part in added]
        assert all(part.abs().max() > 0 for part in own)
        want = features + sum(F.linear(features, part) for part in own)
        merged = F.linear(features, learner.learned()[f"{kind}_map"])
        torch.testing.assert_close(merged, want)
        for task in (1, 2):  # what came before rests
            former, now = (learner.run.part(t)[f"{kind}_map"] for t in (task - 1, task))
            torch.testing.assert_close(now - former, own[task], rtol=1e-3, atol=1e-6)


def test_former_maps_do_not_decay(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    """With no gradient to speak of, a decay of the merged maps would shrink them."""
    stream = make_stream(((0, 1), (2, 3)))
    schedule = {"lr": 1e-9, "weight_decay": 1e8, "momentum": 0.0}
    learner = make_learner("proof", stream, config={"schedule": schedule})
    learn_stream(learner, stream)
    torch.testing.assert_close(learner.learned()["image_map"], torch.eye(192), rtol=0, atol=1e-4)


def test_images_of_the_memory_train_their_own_rows(tiny_clip: Clip) -> None:
    method = build_method("proof", BackboneSpec.of(tiny_clip))
    assert isinstance(method, Proof)
    method.fusion = FusedTexts(WIDTH, 2.0)
    learned, images = random_learned(), some(4, WIDTH, seed=60)
    labels = torch.tensor([0, 1, -3, -1])  # of two new rows behind three old ones
    loss = method.loss(Batch(encoded(images), labels, 2, MappingProxyType({})), learned)
    rows = torch.tensor([3, 4, 0, 2])
    logits = method.fusion.logits(encoded(images), learned)
    want = sum(-one.log_softmax(dim=-1)[range(4), rows].mean() for one in logits)
    assert loss.item() == pytest.approx(float(want), rel=1e-5)


def test_the_memory_holds_images_of_all_tasks_within_its_budget(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=5)
    learner = make_learner("proof", stream, config={"memory": 13 * 32 * 32 * 3})
    learn_stream(learner, stream)
    rows = learner.run.state()[CLASS_ROWS]
    assert torch.bincount(rows).tolist() == [3] * 4
    assert learner.run.record(1).exemplars == 12


def test_a_memory_too_small_for_an_image_of_each_class_is_refused(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    learner = make_learner("proof", make_stream(), config={"memory": 2 * 32 * 32 * 3 - 1})
    with pytest.raises(ExemplarError, match=r"2 classes, 6144 bytes.*--set memory=BYTES"):
        learn_stream(learner, make_stream())
    assert not len(learner.run), "nothing was trained in vain"


def test_texts_and_prototypes_are_the_frozen_towers(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("proof", stream)
    learn_stream(learner, stream)
    learned = learner.learned()
    assert learner.text is not None
    names = [f"hue-{hue}" for hue in range(4)]
    torch.testing.assert_close(learned["texts"], learner.text.zero_shot(names))
    found = []
    for task in stream.tasks:
        pictures = learner.load(task.train, "")
        plain = learner.encoder.plain(pictures.images)
        assert plain is not None
        labels = torch.from_numpy(np.array(pictures.labels)) % 2
        found.append(class_means(F.normalize(plain.cls, dim=-1), labels, 2))
    torch.testing.assert_close(learned["prototypes"], F.normalize(torch.cat(found), dim=-1))
    assert learned["contexts"].shape == (6, 192)


def test_a_class_that_only_has_a_name_has_its_text_for_a_prototype(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1),))
    learner = make_learner("proof", stream)
    learn_stream(learner, stream)
    assert learner.text is not None
    assert isinstance(learner.method, Proof)
    learned, names = learner.learned(), ["hue-4", "hue-5"]
    rows = learner.method.zero_shot_rows(learner.text, names, learned)
    wide = widened(learner.declared, learned, rows)
    texts = learner.text.zero_shot(names)
    for name in ("texts", "prototypes"):
        assert torch.equal(wide[name][2:], texts)
    images = learner.load(stream.tasks[0].test, "").images
    assert learner.predict(images, wide).scores.shape == (len(images), 4)


@pytest.mark.parametrize("field", ["contexts", "memory"])
def test_a_size_of_zero_is_refused(field: str) -> None:
    with pytest.raises(MethodError, match=r"at least 1.* Raise it"):
        ProofConfig(**{field: 0})

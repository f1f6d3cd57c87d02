"""Class prompts: the autoencoders, the frozen standardisation, what is kept; CGIL and its bound."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.shared.class_prompts import (
    Names,
    continued_prompts,
    embedded,
    generated,
    moments_of,
)
from edgecl.methods.shared.vae import VaeSizes, drawn_features, fit_vaes, negative_elbo, picked
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
CPU = torch.device("cpu")
NAMES = ("red", "green", "dark blue")
TINY = {"hidden": 32, "latent": 8, "steps": 60}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def view(text: TextEncoder, index: int, features: Tensor, **given: object) -> TaskContext:
    """Return a task of two classes, half of the features each, behind `index` others like it."""
    rows = tuple(f"class {row}" for row in range(2 * index + 2))
    labels = torch.arange(2).repeat_interleave(len(features) // 2)
    task = TaskContext(
        index=index, classes=2, class_rows=rows, labels=labels, plain=None, features={},
        learned={}, state={}, generator=generator(index), text_encoder=text,
        encode=lambda _: {"feature": features},
    )  # fmt: skip
    return dataclasses.replace(task, **given)  # type: ignore[arg-type]


# -- the autoencoders


def test_every_image_of_a_class_is_picked_before_one_comes_twice() -> None:
    labels = torch.tensor([1, 0, 1, 1, 0, 1])
    rows = picked(labels, 2, 4, generator())
    assert rows.shape == (2, 4)
    assert sorted(rows[0].tolist()) == [1, 1, 4, 4]
    assert sorted(rows[1].tolist()) == [0, 2, 3, 5]
    assert not torch.equal(rows, picked(labels, 2, 4, generator(1)))


def test_what_is_drawn_has_the_moments_of_its_class() -> None:
    """Correlated features, so that few directions hold the spread, as in real ones."""
    mix = torch.randn(4, 48, generator=generator(9))
    means = torch.tensor([[5.0], [-3.0]])
    rows = torch.cat([
        mean + (row + 1) * torch.randn(80, 4, generator=generator(row)) @ mix
        for row, mean in enumerate(means)
    ])
    labels = torch.arange(2).repeat_interleave(80)
    sizes = VaeSizes(hidden=64, latent=4, steps=300, lr=2e-3)
    vaes = fit_vaes(rows, labels, 2, sizes, generator(), CPU)
    found = drawn_features(vaes, 2000, generator(1))
    assert found.shape == (2, 2000, 48)
    for row in range(2):
        own = rows[labels == row]
        spread = own.std(dim=0)
        assert ((found[row].mean(dim=0) - own.mean(dim=0)) / spread).abs().mean() < 0.2
        assert 0.7 < (found[row].std(dim=0) / spread).mean() < 1.2
        alike = torch.corrcoef(
            torch.stack([torch.cov(each.T).flatten() for each in (own, found[row])])
        )
        assert alike[0, 1] > 0.8, "the correlations are learned, not the scales alone"


def test_one_image_and_flat_features_are_drawn_as_they_are() -> None:
    rows = torch.randn(3, 6, generator=generator())
    rows[1:, 0] = 7.0  # flat in the class of two images
    sizes = VaeSizes(hidden=8, latent=4, steps=3, lr=1e-3)
    vaes = fit_vaes(rows, torch.tensor([0, 1, 1]), 2, sizes, generator(), CPU)
    found = drawn_features(vaes, 5, generator())
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], rows[:1].expand(5, 6))
    torch.testing.assert_close(found[1, :, 0], torch.full((5,), 7.0))


def test_classes_are_trained_apart() -> None:
    """Another class beside it changes nothing of a class but its random numbers."""
    vaes = {name: tensor.requires_grad_() for name, tensor in hand_made(classes=2, seed=0).items()}
    rows = torch.randn(2, 5, 3, generator=generator())
    negative_elbo(vaes, rows, torch.zeros(2, 5, 2)).backward()
    alone = {name: t.detach()[:1].clone().requires_grad_() for name, t in vaes.items()}
    negative_elbo(alone, rows[:1], torch.zeros(1, 5, 2)).backward()
    for name, tensor in vaes.items():
        assert tensor.grad is not None
        assert alone[name].grad is not None
        torch.testing.assert_close(tensor.grad[:1], alone[name].grad)


def hand_made(classes: int, seed: int) -> dict[str, Tensor]:
    """Return the tensors of autoencoders of 3 features, 4 hidden and 2 latent ones."""
    random = generator(seed)
    tensors: dict[str, Tensor] = {}
    for part, widths in {"encoder": (3, 4, 4, 4), "decoder": (2, 4, 4, 3)}.items():
        for layer in range(3):
            rows, columns = widths[layer : layer + 2]
            tensors[f"{part}_weight_{layer}"] = torch.randn(
                classes, rows, columns, generator=random
            )
            tensors[f"{part}_bias_{layer}"] = torch.randn(classes, 1, columns, generator=random)
    for layer in range(2):
        tensors[f"encoder_scale_{layer}"] = torch.rand(classes, 1, 4, generator=random)
        tensors[f"encoder_shift_{layer}"] = torch.rand(classes, 1, 4, generator=random)
    return tensors


def test_the_loss_by_hand() -> None:
    """The likelihood and the divergence as torch.distributions has them, layers as torch.nn."""
    vaes = hand_made(classes=1, seed=3)
    rows = torch.randn(5, 3, generator=generator(1))
    noise = torch.randn(5, 2, generator=generator(2))

    def layer(part: str, index: int, x: Tensor) -> Tensor:
        weight, bias = vaes[f"{part}_weight_{index}"][0], vaes[f"{part}_bias_{index}"][0, 0]
        return F.linear(x, weight.T, bias)

    x = rows
    for index in range(2):
        scale, shift = vaes[f"encoder_scale_{index}"][0, 0], vaes[f"encoder_shift_{index}"][0, 0]
        x = F.batch_norm(layer("encoder", index, x), None, None, scale, shift, training=True)
        x = F.leaky_relu(x, 0.2)
    x = layer("encoder", 2, x)
    latent = torch.distributions.Normal(x[:, :2], (x[:, 2:] / 2).exp())
    y = latent.mean + latent.stddev * noise
    for index in range(2):
        y = F.leaky_relu(layer("decoder", index, y), 0.2)
    likelihood = torch.distributions.Normal(layer("decoder", 2, y), 1.0).log_prob(rows).sum()
    standard = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(latent, standard).sum()
    constant = rows.numel() * math.log(2 * math.pi) / 2
    found = negative_elbo(vaes, rows[None], noise[None])
    torch.testing.assert_close(found + constant, divergence - likelihood)


# -- the prompts


@pytest.fixture
def prompts(tiny_clip: Clip) -> dict[str, Tensor]:
    """Return prompts of three classes, as a training may leave them."""
    text = TextEncoder(tiny_clip)
    task = dataclasses.replace(view(text, 0, torch.zeros(4, 192)), classes=len(NAMES))
    made = continued_prompts(task, BackboneSpec.of(tiny_clip))
    return {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=generator())
        for name, tensor in made.items()
    }


def test_the_network_by_hand(prompts: dict[str, Tensor]) -> None:
    """Linear layers, batch norms without running statistics and SELU, as torch.nn has them."""
    plain = torch.randn(3, 192, generator=generator())
    x = plain
    for index in range(4):
        x = F.linear(x, prompts[f"prompt_weight_{index}"], prompts[f"prompt_bias_{index}"])
        if index < 3:
            scale, shift = prompts[f"prompt_scale_{index}"], prompts[f"prompt_shift_{index}"]
            x = F.selu(F.batch_norm(x, None, None, scale, shift, training=True))
    found, _ = generated(prompts, plain)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_the_plain_feature_is_raw_and_the_mean_over_the_templates(tiny_clip: Clip) -> None:
    text = TextEncoder(tiny_clip)
    names = Names.of(text, NAMES, "{}.", ("{}", "a {}"))
    with torch.no_grad():
        raw = [tiny_clip.text(tiny_clip.tokenizer([one])) for one in ("dark blue", "a dark blue")]
    torch.testing.assert_close(names.plain[2], torch.cat(raw).mean(dim=0))
    assert abs(float(names.plain.norm(dim=1).mean()) - 1) > 0.1
    assert torch.equal(names.tokens, tiny_clip.tokenizer([f"{name}." for name in NAMES]))


def test_a_frozen_text_is_a_function_of_its_class_alone(
    tiny_clip: Clip, prompts: dict[str, Tensor]
) -> None:
    """T7: a text on its own moments depends on the other classes, frozen it does not."""
    text = TextEncoder(tiny_clip)
    names = Names.of(text, NAMES, "{}.", ())
    frozen = moments_of(prompts, names.plain)
    with torch.no_grad():
        among = embedded(text, prompts, names, frozen)
        torch.testing.assert_close(among, embedded(text, prompts, names))
        torch.testing.assert_close(among.norm(dim=1), torch.ones(3))
        for row, name in enumerate(NAMES):
            own = {**prompts, "prompt_contexts": prompts["prompt_contexts"][row : row + 1]}
            single = Names.of(text, [name], "{}.", ())
            alone = embedded(text, own, single, frozen)
            torch.testing.assert_close(alone[0], among[row], rtol=0, atol=1e-5)
            loose = embedded(text, own, single)
            assert (loose[0] - among[row]).abs().max() > 1e-4


# -- the methods


def test_the_features_are_all_that_differs(tiny_clip: Clip) -> None:
    """Fed with the same features, both methods make the same texts."""
    text, spec = TextEncoder(tiny_clip), BackboneSpec.of(tiny_clip)
    features = torch.randn(2, 8, 192, generator=generator())

    def texts(name: str) -> Tensor:
        method = build_method(name, spec, {"schedule": {"epochs": 3, "batch_size": 8}})
        method.draw = lambda memory, count, random: features  # type: ignore[attr-defined]
        method.remember = lambda task: {}  # type: ignore[attr-defined]
        return method.fit(view(text, 0, features.flatten(0, 1))).part["texts"]

    assert torch.equal(texts("cgil"), texts("joint-prompts"))


@pytest.mark.parametrize("name", ["cgil", "joint-prompts"])
def test_the_texts_learn_classes_whose_names_say_nothing(name: str, tiny_clip: Clip) -> None:
    """Two tasks of blobs; the texts of both are right at the end."""
    text, spec = TextEncoder(tiny_clip), BackboneSpec.of(tiny_clip)
    config = {"schedule": {"epochs": 30, "batch_size": 8}} | (TINY if name == "cgil" else {})
    method = build_method(name, spec, config)
    centres = torch.randn(4, 192, generator=generator(5))
    tests = centres[:, None] + 0.5 * torch.randn(4, 20, 192, generator=generator(6))
    done = FitResult({}, {})
    for index in range(2):
        own = centres[2 * index : 2 * index + 2, None]
        noise = 0.5 * torch.randn(2, 12, 192, generator=generator(index))
        done = method.fit(view(text, index, (own + noise).flatten(0, 1), state=done.state))
    best = (F.normalize(tests, dim=-1) @ done.part["texts"].T).argmax(dim=-1)
    assert (best == torch.arange(4)[:, None]).float().mean() > 0.95


def test_joint_keeps_every_feature_and_cgil_keeps_no_feature(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=5)
    joint, cgil = (make_learner(name, stream, out=name) for name in ("joint-prompts", "cgil"))
    for learner in (joint, cgil):
        learn_stream(learner, stream)
        assert [set(part) for part in learner.run.parts()] == [{"texts"}] * 2, "nothing else ships"
        record = learner.run.record(1)
        kept = learner.run.state()
        assert record.state_bytes == sum(tensor.nbytes for tensor in kept.values())
        assert kept["prompt_contexts"].shape == (4, 32)
    images = np.concatenate([joint.load(task.train, "").images for task in stream.tasks])
    plain = joint.encoder.plain(images)
    assert plain is not None
    torch.testing.assert_close(joint.run.state()["image_features"], plain.cls)
    assert joint.run.state()["image_rows"].tolist() == [row for row in range(4) for _ in range(5)]
    for name, tensor in cgil.run.state().items():
        assert name.startswith(("prompt_", "decoder_", "feature_"))
        assert not (tensor.ndim == 2 and len(tensor) == len(images))


def test_the_device_gets_a_matrix(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    learner = make_learner("cgil", make_stream())
    learn_stream(learner, make_stream())
    assert learner.method.program.passes == ("plain",)
    assert not learner.method.program.slots()
    part = learner.run.part(2)["texts"]
    assert part.shape == (6, 192)
    torch.testing.assert_close(part.norm(dim=1), torch.ones(6))


def test_a_class_to_come_is_scored_by_its_normalised_name(tiny_clip: Clip) -> None:
    method = build_method("cgil", BackboneSpec.of(tiny_clip))
    rows = method.zero_shot_rows(TextEncoder(tiny_clip), ["dark blue"], {})["texts"]
    torch.testing.assert_close(rows, tiny_clip.encode_text(["dark blue"]))


def test_settings_that_cannot_work_are_refused(tiny_clip: Clip) -> None:
    spec = BackboneSpec.of(tiny_clip)
    with pytest.raises(MethodError, match=r"cgil.latent must be at least 1, got 0. Raise it"):
        build_method("cgil", spec, {"latent": 0})
    with pytest.raises(MethodError, match=r"cgil.lr must be above 0, got -1.0. Use 3e-3"):
        build_method("cgil", spec, {"lr": -1})


def test_autoencoders_that_diverge_name_their_own_rate(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    learner = make_learner("cgil", stream, config={"lr": 1e20})
    with pytest.raises(MethodError, match=r"autoencoders must stay finite.*--set lr=1e\+19"):
        learn_stream(learner, stream)

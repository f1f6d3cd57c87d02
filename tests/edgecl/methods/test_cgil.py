"""CGIL and its upper bound: what is kept, what ships, texts of classes whose names say nothing."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
TINY = {"hidden": 32, "latent": 8, "steps": 60}


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

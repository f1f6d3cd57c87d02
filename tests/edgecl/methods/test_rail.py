"""RAIL: its gate, its head, and what of CLIP it keeps."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.rail import Rail
from edgecl.program.classifiers import Encoded
from edgecl.program.classifiers.gated import GatedRidge
from edgecl.program.fitting import FitResult, TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
F_DIM, M, COUNT, LEARNED, ALL = 8, 24, 40, 4, 6
HEAD = GatedRidge(M, "plain", width=F_DIM, logit_scale=3.0, ridge=0.5, share=0.2, seed=3)


def encoded(raw: Tensor) -> Encoded:
    none = Match(torch.zeros(len(raw), 1).long(), torch.ones(len(raw), 1))
    return Encoded(Features(raw, torch.zeros(1)), none, None)


def expanded(raw: Tensor, projection: Tensor) -> Tensor:
    return (F.normalize(raw, dim=-1) @ projection).relu()


@pytest.fixture
def projection() -> Tensor:
    made = HEAD.declare()["projection"].generated
    assert made is not None
    return made.make((F_DIM, M))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(COUNT, F_DIM, generator=torch.Generator().manual_seed(0))


def fitted(images: Tensor, projection: Tensor, order: tuple[int, ...] = (0, 1)) -> Tensors:
    """Learn two tasks of two classes; return the rows in the order of the classes."""
    classes, result, names = torch.arange(COUNT) % LEARNED, FitResult(), []
    for index, task in enumerate(order):
        own = torch.nonzero(classes // 2 == task).flatten().flip(0)
        names += [2 * task, 2 * task + 1]
        result = HEAD.fit(
            TaskContext(
                index=index, classes=2, class_rows=tuple(map(str, names)), labels=classes[own] % 2,
                plain=None, features={"feature": HEAD.feature(encoded(images[own]))},
                learned={"projection": projection}, state=result.state,
                generator=torch.Generator(),
            )
        )  # fmt: skip
    place = torch.tensor([names.index(each) for each in range(LEARNED)])
    return {name: rows[place] for name, rows in result.part.items()}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_head_is_the_joint_ridge_solution(
    images: Tensor, projection: Tensor, order: tuple[int, ...]
) -> None:
    part = fitted(images, projection, order)
    h = expanded(images, projection).double()
    y = F.one_hot(torch.arange(COUNT) % LEARNED).double()
    want = torch.linalg.solve(h.T @ h + 0.5 * torch.eye(M).double(), h.T @ y).T
    torch.testing.assert_close(part["head_weight"] * part["head_scale"][:, None], want.float())


def test_the_gate_by_hand(images: Tensor, projection: Tensor) -> None:
    """Where the best name was not learned the answer is CLIP's, bit for bit; else it is mixed."""
    part = fitted(images, projection)
    texts = F.normalize(torch.randn(ALL, F_DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    learned: Tensors = {"projection": projection, "texts": texts[:LEARNED], **part}
    for name, rows in HEAD.unlearned(texts[LEARNED:]).items():
        learned[name] = torch.cat([learned[name], rows])
    scores = HEAD.scores(encoded(images), learned)
    by_name = F.normalize(images, dim=-1) @ texts.T
    likely = (math.exp(3.0) * by_name).softmax(dim=-1)
    asked = by_name.argmax(dim=-1) < LEARNED
    assert 0 < int(asked.sum()) < COUNT
    assert torch.equal(scores[~asked], likely[~asked])
    ridge = F.linear(expanded(images, projection), part["head_weight"]) * part["head_scale"]
    mixed = 0.2 * likely + 0.8 * F.pad(ridge, (0, ALL - LEARNED))
    torch.testing.assert_close(scores[asked], mixed[asked])
    assert not torch.allclose(mixed[~asked], likely[~asked], atol=1e-3), "the gate matters"


def test_a_run_keeps_what_clip_sees_in_classes_to_come(
    make_learner: MakeLearner, make_stream: MakeStream, tiny_clip: Clip
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=6)
    learner = make_learner("rail", stream)
    assert learn_stream(learner, stream).a_last == 1.0
    assert learner.method.trains == "never"
    method, learned = learner.method, learner.learned()
    assert isinstance(method, Rail)
    images = learner.load(stream.tasks[0].test, "").images
    feature = learner.predict(images).feature
    names = ["hue-4"]
    rows = method.zero_shot_rows(TextEncoder(tiny_clip), names, learned)
    rows["texts"] = F.normalize(feature[:1], dim=-1)  # a name that leads everywhere
    wide = learned | {name: torch.cat([learned[name], own]) for name, own in rows.items()}
    scores = learner.predict(images, wide).scores
    want = (math.exp(tiny_clip.logit_scale) * feature @ wide["texts"].T).softmax(dim=-1)
    torch.testing.assert_close(scores, want)
    assert (scores.argmax(dim=-1) == 4).all()


@pytest.mark.parametrize("config", [{"ridge": 0.0}, {"zero_shot": 1.0}, {"zero_shot": -0.1}])
def test_wrong_settings(config: dict[str, float], tiny_clip: Clip) -> None:
    with pytest.raises(MethodError, match="or the method zero-shot"):
        build_method("rail", BackboneSpec.of(tiny_clip), config)

"""BOFA: what it may change of the projection, how it reads features, its prototypes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.edgecl.support import view
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, ViT, ViTConfig
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.bofa import Bofa
from edgecl.program.classifiers.discriminant import discriminants, with_one
from edgecl.program.classifiers.mixed import projected, text_share
from edgecl.program.classifiers.ridge import Sums
from edgecl.program.learned import Tensors, join, with_part
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
WIDTH, FEATURES, CLASSES, EACH, RANK = 48, 16, 2, 12, 16
QUICK = {"rank": RANK, "schedule": {"epochs": 3, "batch_size": 8}}


@pytest.fixture
def method(tiny_clip: Clip) -> Bofa:
    spec = replace(BackboneSpec.of(tiny_clip), feature_dim=FEATURES, inner=WIDTH)
    made = build_method("bofa", spec, QUICK)
    assert isinstance(made, Bofa)
    return made


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def encoded(x: Tensor, weight: Tensor, _: object, instead: Mapping[str, Tensor]) -> Tensors:
    """Stand for a backbone that ends in a projection."""
    return {"feature": x @ (weight + instead["projection"])}


def learn(method: Bofa, tasks: list[Tensor], weight: Tensor) -> list[tuple[Tensors, Tensors]]:
    """Learn tasks of features x; return what was learned and the state after each."""
    declared, found, state = method.program.declare(), [], {}
    learned = join(declared, [])
    for index, x in enumerate(tasks):
        names = tuple(f"{task} {row}" for task in range(index + 1) for row in range(CLASSES))
        texts = F.normalize(random(CLASSES, FEATURES, seed=90 + index), dim=-1)
        task = view(
            method, index, CLASSES, with_part(declared, learned, {"texts": texts}), state=state,
            class_rows=names, labels=torch.arange(CLASSES).repeat_interleave(EACH),
            encode=partial(encoded, x, weight),
        )  # fmt: skip
        fitted = method.fit(task)
        learned = with_part(declared, learned, fitted.part)
        state = fitted.state
        found.append((dict(learned), dict(state)))
    return found


def test_later_tasks_change_nothing_where_former_features_are(method: Bofa) -> None:
    """Features of former tasks keep what their own and earlier tasks changed, in the mean."""
    weight = random(WIDTH, FEATURES, seed=0) * WIDTH**-0.5
    spans = torch.linalg.qr(random(WIDTH, 27, seed=1)).Q.T.split(9)  # of each task's features
    tasks = [random(CLASSES * EACH, 9, seed=2 + t) @ span for t, span in enumerate(spans)]
    steps = learn(method, tasks, weight)
    for former, x in enumerate(tasks):
        then = (former + 1) * x @ steps[former][0]["projection"]
        for t in range(former + 1, len(tasks)):
            now = (t + 1) * x @ steps[t][0]["projection"]
            torch.testing.assert_close(now, then, rtol=0, atol=1e-4)
    assert then.abs().max() > 1e-2, "the first task changes its own features freely"
    own = 3 * steps[2][0]["projection"] - 2 * steps[1][0]["projection"]
    assert own.abs().max() > 1e-3
    assert torch.linalg.matrix_rank(own, atol=1e-5) <= RANK
    free = steps[2][1]["free"]
    least = torch.linalg.eigh(steps[1][1]["square"]).eigenvectors[:, :RANK].float()
    torch.testing.assert_close(own, least @ least.T @ free, rtol=0, atol=1e-5)


def test_the_head_is_that_of_the_features_as_they_are_now(method: Bofa) -> None:
    weight = random(WIDTH, FEATURES, seed=0)
    tasks = [random(CLASSES * EACH, WIDTH, seed=2 + t) for t in range(2)]
    learned, state = learn(method, tasks, weight)[-1]
    x, classes = torch.cat(tasks), torch.arange(2 * CLASSES).repeat_interleave(EACH)
    sums = Sums.of(with_one(x @ (weight + learned["projection"])), classes, 2 * CLASSES)
    want = discriminants(sums, torch.arange(2 * CLASSES), "trace")
    head = learned["head_weight"] * learned["head_scale"][:, None]
    torch.testing.assert_close(head, want.weight.float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(learned["head_bias"], want.bias.float(), rtol=1e-3, atol=1e-4)
    means = torch.stack([(x @ weight)[classes == row].mean(dim=0) for row in range(2 * CLASSES)])
    texts = F.normalize(torch.cat([random(CLASSES, FEATURES, seed=90 + t) for t in (0, 1)]), dim=-1)
    mixed = state["of_text"] * texts + (1 - state["of_text"]) * F.normalize(means, dim=-1)
    torch.testing.assert_close(learned["texts"], mixed, rtol=0, atol=1e-5)


def test_the_features_before_the_projection_are_read_off(method: Bofa) -> None:
    torch.manual_seed(0)
    config = ViTConfig(image_size=32, patch=16, width=WIDTH, depth=1, heads=3, projection=FEATURES)
    model, pixels = ViT(config).eval(), torch.randn(3, 3, 32, 32)
    seen: list[Tensor] = []
    model.norm.register_forward_hook(lambda *given: seen.append(given[2][:, 0]))

    def encode(gather: Callable[..., Tensors], instead: Tensors) -> Tensors:
        with torch.no_grad():
            return gather(method.program.encode(model, pixels, instead), instead)

    plain, x = method._features(view(method, 0, CLASSES, {}, encode=encode))
    torch.testing.assert_close(x, seen[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(plain, model(pixels).cls.detach(), rtol=0, atol=1e-5)


def test_the_share_of_the_text_is_the_smallest_of_the_best() -> None:
    """Two classes whose means mislead in part: at 0.5 and above the names decide all."""
    features, labels = torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 1])
    images = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert text_share(features, labels, images, torch.eye(2)) == pytest.approx(0.55)
    assert text_share(features, labels, torch.eye(2), torch.eye(2)) == 0


def test_classes_to_come_are_scored_by_name(
    make_learner: MakeLearner, make_stream: MakeStream, tiny_clip: Clip
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=6)
    learner = make_learner("bofa", stream)
    learn_stream(learner, stream)
    method, learned = learner.method, learner.learned()
    assert isinstance(method, Bofa)
    assert method.trains == "never"
    rows = method.zero_shot_rows(TextEncoder(tiny_clip), ["hue-4"], learned)
    wide = learned | {name: torch.cat([learned[name], own]) for name, own in rows.items()}
    outputs = learner.predict(learner.load(stream.tasks[0].test, "").images, wide)
    want = learned["text_scale"] * (outputs.feature @ rows["texts"][0])
    torch.testing.assert_close(outputs.scores[:, 4], want, rtol=1e-5, atol=1e-5)


def test_sums_of_changed_features() -> None:
    f, x, change = (random(9, 5, seed=1), random(9, 7, seed=2), random(7, 5, seed=3))
    classes = torch.arange(9) % 3
    total = Sums.of(with_one(torch.cat([f, x], dim=1)), classes, 3)
    want = Sums.of(with_one(f + x @ change), classes, 3)
    got = projected(total, change)
    torch.testing.assert_close(got.gram, want.gram, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(got.moments, want.moments, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("config", [{"share": 0.0}, {"share": 1.0}, {"factor": 0.0}])
def test_wrong_settings(config: dict[str, Any], tiny_clip: Clip) -> None:
    with pytest.raises(MethodError, match=r"Use 0\.1 and 4\.6"):
        build_method("bofa", BackboneSpec.of(tiny_clip), config)

"""Both towers of a CLIP fine-tuned: texts anew, the mean of the weights, distillation."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.edgecl.methods.shared.towers import F_WIDTH, factors, method_of, view
from torch.nn import functional as F

from edgecl.backbones import Clip
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import Method
from edgecl.methods.shared.two_tower_lora import TEXT, MeanOfWeights, TwoTowerLora, distilled
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors
from edgecl.session import learn_stream, learn_task
from edgecl.streams import Stream

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
both = pytest.mark.parametrize("name", ["zscl", "mulki"])


def of_learner(learner: Learner) -> TwoTowerLora:
    assert isinstance(learner.method, TwoTowerLora)
    return learner.method


def last_state(learner: Learner) -> Tensors:
    return learner.run.state()


def images_of(learner: Learner, stream: Stream) -> Any:
    return learner.load(stream.tasks[0].test, "").images


# -- the towers


@both
def test_without_a_change_it_is_the_plain_clip(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """Not trained at all, it scores as CLIP does, through the cut and over two tasks."""
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner(name, stream, config={"schedule": {"epochs": 0}})
    clip = make_learner("zero-shot", stream, out="clip")
    for one in (learner, clip):
        learn_stream(one, stream)
    images = images_of(learner, stream)
    scores = learner.predict(images).scores
    torch.testing.assert_close(scores, clip.predict(images).scores, rtol=0, atol=1e-5)
    texts = learner.learned()["texts"]
    torch.testing.assert_close(texts, clip.learned()["texts"], rtol=0, atol=1e-6)
    for weight in of_learner(learner).weights:
        if not weight.startswith(TEXT):
            assert learner.learned()[f"{weight}_a"].abs().max() > 0, "it can grow"


@both
def test_a_task_embeds_all_rows_anew(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=8)
    schedule = {"epochs": 4, "batch_size": 4}
    learner = make_learner(name, stream, config={"schedule": schedule})
    learn_stream(learner, stream)
    former, texts = learner.run.part(0)["texts"], learner.run.part(1)["texts"]
    assert former.shape == (2, F_WIDTH)
    assert texts.shape == (4, F_WIDTH)
    assert (texts[:2] - former).abs().max() > 1e-4
    assert learner.text is not None
    names = ["hue-0", "hue-1", "hue-2", "hue-3"]
    state = last_state(learner)
    with torch.no_grad():
        again = of_learner(learner).embed(learner.text, names, state)
    torch.testing.assert_close(texts, again, rtol=0, atol=1e-6)
    unseen = of_learner(learner).zero_shot_rows(learner.text, ["hue-5"], state | learner.learned())[
        "texts"
    ]
    plain = learner.text.zero_shot(["hue-5"])
    assert (unseen - plain).abs().max() > 1e-4, "by the text tower as it is now"
    torch.testing.assert_close(unseen.norm(dim=-1), torch.ones(1))


def test_the_mean_over_templates_ships(tiny_clip: Clip) -> None:
    templates = ("a {}", "the {} again")
    method = method_of("zscl", tiny_clip, templates=templates)
    none = {name: torch.zeros(item.shape(0)) for name, item in method.local().items()}
    text = TextEncoder(tiny_clip)
    task = view(tiny_clip)
    with torch.no_grad():
        ships = method.parametrize(none, task, final=True)["texts"]
    torch.testing.assert_close(ships, text.zero_shot(task.class_rows, templates), rtol=0, atol=1e-6)
    trains = method.parametrize(none, task, final=False)["texts"]
    torch.testing.assert_close(
        trains, text.zero_shot(task.class_rows, templates[:1]), rtol=0, atol=1e-6
    )
    later = view(tiny_clip, index=1)
    texts = method.parametrize(none, later, final=False)["texts"]
    assert len(texts) == 2, "training embeds the task's rows"


@both
def test_a_task_goes_on_from_the_former_weights(
    name: str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(((0, 1), (2, 3)), train=8)
    learner = make_learner(name, stream)
    method = of_learner(learner)
    seen: list[TaskContext] = []
    constants = type(method).constants

    def noted(self: Any, task: TaskContext) -> Tensors:
        seen.append(task)
        return constants(self, task)

    images = learner.load(stream.tasks[1].train, "").images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method), "constants", noted)
        learn_task(learner, stream.tasks[0], stream.classes)
        former = method.changes(learner.learned() | last_state(learner))
        feature = learner.predict(images).feature
        method.config = replace(method.config, schedule=replace(method.config.schedule, epochs=0))
        learn_task(learner, stream.tasks[1], stream.classes)
    for weight, change in method.changes(learner.learned() | last_state(learner)).items():
        assert change.abs().max() > 0
        torch.testing.assert_close(change, former[weight], rtol=1e-4, atol=1e-6)
    features = seen[1].features
    assert features.keys() == set(method.teachers)
    torch.testing.assert_close(features["initial"], learner.encoder.frozen(images).cls)
    if "former" in features:
        torch.testing.assert_close(F.normalize(features["former"], dim=-1), feature)
        torch.testing.assert_close(seen[0].features["former"], seen[0].features["initial"])


@both
def test_every_task_ends_at_the_mean_in_both_towers(
    name: str, make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ships and what the next task starts from is what the mean ended as."""
    stream = make_stream()
    learner = make_learner(name, stream)
    method, ends = of_learner(learner), []
    finish = MeanOfWeights.finish

    def noted(self: MeanOfWeights, tensors: Tensors) -> None:
        finish(self, tensors)
        changes = self.method.changes(tensors)
        ends.append({weight: change.clone() for weight, change in changes.items()})

    monkeypatch.setattr(MeanOfWeights, "finish", noted)
    for task in stream.tasks:
        learn_task(learner, task, stream.classes)
        for weight, change in method.changes(learner.learned() | last_state(learner)).items():
            torch.testing.assert_close(change, ends[-1][weight])
    assert len(ends) == 3


# -- the mean of the weights


@both
def test_the_mean_has_the_start_and_equal_distances(name: str, tiny_clip: Clip) -> None:
    """Six images in batches of 2, two epochs, three models: the second, fourth and sixth step."""
    schedule = {"epochs": 2, "batch_size": 2}
    method = method_of(name, tiny_clip, models=3, rank=4, schedule=schedule)
    features = {teacher: torch.randn(6, F_WIDTH) for teacher in method.teachers}
    start = factors(method, 9)
    task = view(tiny_clip, index=1, learned=start, state=start, features=features)
    average = method.average(task, method.constants(task))
    assert average.distance == 2
    passed = [method.changes(start)]
    for step in range(6):
        leaves = factors(method, step)
        average.update(leaves)
        if step % 2:
            passed.append(method.changes(leaves))
    share = method.config.former if name == "mulki" else 0.0
    ends = factors(method, 5)
    average.finish(ends)
    for weight in method.weights:
        mean = torch.stack([changes[weight] for changes in passed]).mean(dim=0)
        torch.testing.assert_close(average.mean[weight], mean)
        wanted = (1 - share) * mean + share * passed[0][weight]
        left, values, right = torch.linalg.svd(wanted.double(), full_matrices=False)
        values[:, 4:] = 0
        nearest = (left * values[:, None] @ right).float()
        got = ends[f"{weight}_a"] @ ends[f"{weight}_b"]
        torch.testing.assert_close(got, nearest, rtol=1e-4, atol=1e-5)


# -- the losses by hand


def test_distillation_by_hand() -> None:
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p = math.exp(1) / (math.exp(1) + 1)  # of the first, at temperature 2
    logs = [-math.log(1 + math.exp(2)), -math.log(1 + math.exp(-2))]
    wanted = -4 * (p * logs[0] + (1 - p) * logs[1])
    torch.testing.assert_close(distilled(teacher, student, 2.0), torch.tensor([wanted]))


# -- the configuration


@both
@pytest.mark.parametrize("rank", [0, 33])
def test_a_rank_beyond_the_narrower_tower_is_refused(name: str, rank: int, tiny_clip: Clip) -> None:
    with pytest.raises(MethodError, match=r"rank must be in \[1, 32\].*Change it"):
        method_of(name, tiny_clip, rank=rank)


@pytest.mark.parametrize(
    ("name", "config", "fix"),
    [
        ("zscl", {"smoothing": 1.0}, r"Use 0\.2 and 2"),
        ("zscl", {"temperature": 0.0}, r"Use 0\.2 and 2"),
        ("mulki", {"former": 1.0}, r"Use 0\.2 and 2"),
        ("mulki", {"temperature": -1.0}, r"Use 0\.2 and 2"),
        ("mulki", {"models": 0}, "Change it"),
        ("zscl", {"distance": -1.0}, "zscl.distance must be at least 0, got -1.0"),
        ("mulki", {"align": -0.5}, "mulki.align must be at least 0, got -0.5"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, config: dict[str, float], fix: str, tiny_clip: Clip
) -> None:
    with pytest.raises(MethodError, match=fix):
        method_of(name, tiny_clip, **config)


def test_the_image_tower_alone_runs_on_a_device(tiny_clip: Clip) -> None:
    methods: list[Method] = [method_of(name, tiny_clip) for name in ("zscl", "mulki")]
    for method in methods:
        assert method.program.passes == ("injected",)
        assert not [name for name in method.program.declare() if name.startswith(TEXT + "lora")]

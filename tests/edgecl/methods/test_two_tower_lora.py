"""ZSCL and MulKI: both towers fine-tuned, the mean of the weights, the losses by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Clip, Features
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods import Method, build_method
from edgecl.methods.base import Batch
from edgecl.methods.mulki import teacher_shares
from edgecl.methods.shared.two_tower_lora import TEXT, MeanOfWeights, TwoTowerLora, distilled
from edgecl.methods.zscl import CAPTIONS
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.session import learn_stream, learn_task
from edgecl.streams import Stream

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]

F_WIDTH, SCALE = 192, math.exp(2.0)
both = pytest.mark.parametrize("name", ["zscl", "mulki"])


def method_of(name: str, clip: Clip, **config: Any) -> TwoTowerLora:
    method = build_method(name, BackboneSpec.of(clip), config)
    assert isinstance(method, TwoTowerLora)
    return method


def of_learner(learner: Learner) -> TwoTowerLora:
    assert isinstance(learner.method, TwoTowerLora)
    return learner.method


def factors(method: TwoTowerLora, seed: int) -> Tensors:
    """Return random changes of both towers."""
    generator = torch.Generator().manual_seed(seed)
    declared = {**method.program.injector.declare(), **method.local()}
    return {
        name: torch.randn(item.shape(0), generator=generator) * 0.1
        for name, item in declared.items()
    }


def view(clip: Clip, images: int = 6, index: int = 0, **fields: Any) -> TaskContext:
    """Return a task of two classes, the second one of the stream where `index` is 1."""
    rows = ("hue-0", "hue-1", "hue-2", "hue-3")[: 2 * index + 2]
    labels = torch.arange(images) % 2
    given: dict[str, Any] = {"features": {"initial": torch.randn(images, F_WIDTH)}, **fields}
    return TaskContext(
        index=index, classes=2, class_rows=rows, labels=labels, plain=None,
        learned=given.pop("learned", {}), state=given.pop("state", {}),
        generator=torch.Generator(), text_encoder=TextEncoder(clip), **given,
    )  # fmt: skip


def encoded(cls: Tensor) -> Encoded:
    none = Match(torch.zeros(len(cls), 1).long(), torch.ones(len(cls), 1))
    return Encoded(None, none, Features(cls, torch.zeros_like(cls)))


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


def test_mulki_connects_from_the_second_task_on(tiny_clip: Clip) -> None:
    method = method_of("mulki", tiny_clip, former=0.25)
    mean, former = torch.ones(1, 2, 2), torch.full((1, 2, 2), 5.0)
    assert torch.equal(method.connected(0, mean, former), mean)
    assert torch.equal(method.connected(1, mean, former), torch.full((1, 2, 2), 2.0))


# -- the losses by hand


def test_distillation_by_hand() -> None:
    teacher, student = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    p = math.exp(1) / (math.exp(1) + 1)  # of the first, at temperature 2
    logs = [-math.log(1 + math.exp(2)), -math.log(1 + math.exp(-2))]
    wanted = -4 * (p * logs[0] + (1 - p) * logs[1])
    torch.testing.assert_close(distilled(teacher, student, 2.0), torch.tensor([wanted]))


def test_the_loss_of_zscl_by_hand(tiny_clip: Clip) -> None:
    torch.manual_seed(0)
    method = method_of("zscl", tiny_clip)
    start, now = factors(method, 1), factors(method, 2)
    task = view(tiny_clip, index=1, learned=start, state=start)
    constants = method.constants(task)
    text = TextEncoder(tiny_clip)
    references = torch.cat([text.zero_shot(["hue-0", "hue-1"]), text.zero_shot(CAPTIONS, ("{}",))])
    torch.testing.assert_close(constants["references"], references)
    rows, cls = torch.tensor([3, 0, 4]), torch.randn(3, F_WIDTH)
    texts = F.normalize(torch.randn(2, F_WIDTH), dim=-1)
    batch = Batch(encoded(cls), task.labels[rows], 2, constants, rows)
    loss = method.loss(batch, now | {"texts": texts})

    image = F.normalize(cls, dim=-1)
    logs = (SCALE * image @ texts.T).log_softmax(dim=-1)
    smooth = torch.full((3, 2), 0.1).scatter(1, task.labels[rows][:, None], 0.9)
    wanted = -(smooth * logs).sum(dim=1).mean()
    teacher = SCALE * F.normalize(task.features["initial"][rows], dim=-1) @ references.T / 2
    student = SCALE * image @ references.T / 2
    for dim in (0, 1):
        pull = teacher.softmax(dim=dim) * student.log_softmax(dim=dim)
        wanted = wanted - 4 * pull.sum(dim=dim).mean()
    for weight in method.weights:
        products = [each[f"{weight}_a"] @ each[f"{weight}_b"] for each in (now, start)]
        wanted = wanted + (products[0] - products[1]).square().sum()
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize(("references", "count"), [("captions", 48), ("names", 0), ("both", 48)])
def test_the_reference_texts_of_the_first_task(
    references: str, count: int, tiny_clip: Clip
) -> None:
    method = method_of("zscl", tiny_clip, references=references)
    task = view(tiny_clip)
    constants = method.constants(task)
    assert constants["references"].shape == (count, F_WIDTH)
    batch = Batch(encoded(torch.randn(2, F_WIDTH)), task.labels[:2], 2, constants, torch.arange(2))
    texts = {"texts": F.normalize(torch.randn(2, F_WIDTH), dim=-1)}
    assert method.loss(batch, factors(method, 0) | texts).isfinite()


def test_the_loss_of_mulki_by_hand(tiny_clip: Clip) -> None:
    torch.manual_seed(0)
    method = method_of("mulki", tiny_clip, align=0.5, distil=2.0)
    start = factors(method, 1)
    features = {teacher: torch.randn(6, F_WIDTH) for teacher in ("initial", "former")}
    task = view(tiny_clip, index=1, learned=start, state=start, features=features)
    constants = method.constants(task)
    rows, cls = torch.tensor([3, 0, 4]), torch.randn(3, F_WIDTH)
    labels, image = task.labels[rows], F.normalize(cls, dim=-1)
    texts = F.normalize(torch.randn(2, F_WIDTH), dim=-1)
    loss = method.loss(Batch(encoded(cls), labels, 2, constants, rows), {"texts": texts})

    side = TextEncoder(tiny_clip)
    of_teacher = {
        "initial": side.zero_shot(task.class_rows),
        "former": method.embed(side, task.class_rows, start),
    }
    wanted = F.cross_entropy(SCALE * image @ texts.T, labels)
    pulls, right = [], []
    for teacher, raw in features.items():
        unit = F.normalize(raw, dim=-1)
        prototypes = torch.stack([unit[task.labels == label].mean(dim=0) for label in (0, 1)])
        prototypes = F.normalize(prototypes, dim=-1)
        if teacher == "former":
            wanted = wanted + 0.5 * F.cross_entropy(SCALE * texts @ prototypes.T, torch.arange(2))
        pull = torch.zeros(3)
        for to in (prototypes, of_teacher[teacher]):
            said = (SCALE / 2 * unit[rows] @ to.T).softmax(dim=-1)
            pull = pull - 4 * (said * (SCALE / 2 * image @ to.T).log_softmax(dim=-1)).sum(dim=-1)
        pulls.append(pull)
        own = (SCALE * unit[rows] @ of_teacher[teacher][2:].T).softmax(dim=-1)
        right.append(own[torch.arange(3), labels])
    shares = torch.stack(right) / torch.stack(right).sum(dim=0)
    wanted = wanted + 2.0 * (shares * torch.stack(pulls)).sum(dim=0).mean()
    torch.testing.assert_close(loss, wanted)


def test_a_teacher_weighs_what_it_gives_to_the_right_class() -> None:
    """Per image: 0.6 against 0.2, and 0.3 against 0.3."""
    right = torch.tensor([[0.6, 0.3], [0.2, 0.3]])
    shares = teacher_shares(right.log())
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0.5], [0.25, 0.5]]))


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

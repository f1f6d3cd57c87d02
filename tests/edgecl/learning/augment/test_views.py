"""Training sees views; nothing else does, and what it sees depends on nothing but their numbers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.edgecl.methods.comparing import files_of
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones.feature_cache import FeatureCache
from edgecl.learning import activations
from edgecl.learning.augment import views
from edgecl.learning.augment.augmentation import Augmentation, Plan
from edgecl.learning.augment.views import Canvas, Views
from edgecl.learning.learner import Learner
from edgecl.learning.task_images import Encoder
from edgecl.methods import methods
from edgecl.methods.base import Batch
from edgecl.reading.scratch import Scratch
from edgecl.session import learn_stream, learn_task, open_learner
from edgecl.streams import ArraySource, BrokenImageError, ImageSet, Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]
TASKS = ((0, 1), (2, 3))
STILL = 1e-30  # a learning rate that moves no bit of what is not zero


def views_of(plan: Plan, canvases: list[Canvas], seed: int = 0) -> Views:
    return Views(plan, canvases, seed, 16, torch.device("cpu"), lambda _: (None, {}))


def pictures(count: int) -> list[Canvas]:
    generator = np.random.default_rng(0)
    sides = [(20 + 3 * row, 30 - 2 * row) for row in range(count)]
    return [Canvas(generator.integers(0, 256, (h, w, 3), dtype=np.uint8), (w, h)) for w, h in sides]


# -- what a view is a function of


def test_a_view_is_of_the_seed_the_picture_and_its_number() -> None:
    plan, canvases = Plan("own", Augmentation(hue=0.1, contrast=0.2), "fresh"), pictures(5)
    views, rows = views_of(plan, canvases), torch.arange(5)
    every = views.pixels(rows, 3)
    order = torch.tensor([4, 0, 2])
    assert torch.equal(views.pixels(order, 3), every[order])
    moved = views_of(plan, [canvases[row] for row in (3, 1, 4, 0, 2)])
    assert torch.equal(
        moved.pixels(torch.tensor([3, 1, 4, 0, 2]), 3), every[torch.tensor([0, 1, 2, 3, 4])]
    )
    assert not torch.equal(views.pixels(rows, 4), every)
    assert not torch.equal(views_of(plan, canvases, seed=1).pixels(rows, 3), every)


@pytest.mark.parametrize(("count", "numbers"), [(3, [0, 1, 2, 0, 1]), ("fresh", [0, 1, 2, 3, 4])])
def test_epochs_read_views_in_turn(count: Any, numbers: list[int]) -> None:
    views = views_of(Plan("own", Augmentation(), count), pictures(1))
    assert [views.number(epoch) for epoch in range(5)] == numbers


def test_what_is_computed_of_a_view_is_kept_if_it_comes_again() -> None:
    for count, calls in ((2, 2), ("fresh", 4)):
        seen: list[np.ndarray] = []

        def look(pixels: np.ndarray, seen: list[np.ndarray] = seen) -> Any:
            seen.append(pixels)
            return None, {}

        plan = Plan("own", Augmentation(), count)  # type: ignore[arg-type]
        views = Views(plan, pictures(2), 0, 16, torch.device("cpu"), look)
        for epoch in range(4):
            views.seen(views.number(epoch))
        assert len(seen) == calls
        rendered = views_of(plan, pictures(2)).pixels(torch.arange(2), 1).numpy()
        assert np.array_equal(seen[1], rendered)


def test_a_view_of_all_images_is_in_scratch_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "CHUNK", 2)
    scratch, asked = Scratch(10**6), []

    def look(pixels: np.ndarray) -> Any:
        asked.append((pixels.copy(), scratch.used))
        return None, {}

    plan = Plan("own", Augmentation(), "fresh")
    five = Views(plan, pictures(5), 0, 16, torch.device("cpu"), look, scratch)
    five.seen(3)
    ((found, used),) = asked
    assert used == 5 * 16 * 16 * 3
    rendered = views_of(plan, pictures(5))
    assert np.array_equal(found, rendered.pixels(torch.arange(5), 3).numpy())
    assert scratch.used == used, "for the epoch that trains on it"
    five.seen(4)
    assert [each for _, each in asked] == [used, used]
    assert torch.equal(five.pixels(torch.arange(5), 4), rendered.pixels(torch.arange(5), 4))
    assert torch.equal(five.pixels(torch.arange(5), 5), rendered.pixels(torch.arange(5), 5))
    del five
    assert scratch.used == 0


# -- what a training sees


@pytest.fixture
def learn(make_learner: MakeLearner, make_stream: MakeStream) -> Callable[..., Learner]:
    """Return a function that learns two tasks of two classes."""

    def run(name: str, out: str = "run", *, train: int = 3, **changes: Any) -> Learner:
        stream = make_stream(TASKS, train=train, test=1)
        given = {key: changes.pop(key) for key in ("augment", "views") if key in changes}
        schedule = {"epochs": 2, "batch_size": 4, **changes}
        learner = make_learner(name, stream, out=out, config={"schedule": schedule}, **given)
        learn_stream(learner, stream)
        return learner

    return run


def same(one: Learner, other: Learner, atol: float = 0.0) -> bool:
    """Return whether two runs hold the same tensors: learned, left as state, and canaries."""
    pairs = [
        *zip(one.run.parts(), other.run.parts(), strict=True),
        (one.run.state(), other.run.state()),
        *(({"c": one.run.canary(t)}, {"c": other.run.canary(t)}) for t in range(len(one.run))),
    ]
    return all(
        left.keys() == right.keys()
        and all((left[k].double() - right[k].double()).abs().le(atol).all() for k in left)
        for left, right in pairs
    )


def test_no_view_is_the_plain_run(learn: Callable[..., Learner]) -> None:
    assert same(learn("l2p"), learn("l2p", "none", augment="pilot", views=0))


# The changes of weights that end as singular vectors have another basis after the least movement.
MOVING = [
    name
    for name, method in methods().items()
    if "schedule" in method.config_type.__dataclass_fields__
    and method.trains != "never"
    and name not in {"aper-finetune", "zscl", "mulki"}
]


QUICK = {"aper-adapter", "hide-prompt", "slca", "s-prompts", "proof"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in MOVING]
)
def test_no_statistic_prototype_memory_or_canary_is_of_a_view(
    name: str, learn: Callable[..., Learner]
) -> None:
    """Where training moves nothing, a run with views is the one without, whatever it computes."""
    still = {"train": 2, "epochs": 1, "lr": STILL, "lr_min": 0.0}
    plain = learn(name, "plain", **still)
    views = learn(name, "views", augment="pilot", views=1, **still)
    assert same(plain, views, atol=1e-20)
    assert [each.accuracy for each in evaluations(plain)] == [
        each.accuracy for each in evaluations(views)
    ]


def evaluations(learner: Learner) -> list[Any]:
    return [learner.run.evaluation(task) for task in range(len(learner.run))]


def test_nothing_but_training_renders_a_view(
    learn: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass over test images, statistics or canaries does, and no view is rendered twice."""
    rendered: list[int] = []
    resize = views.resize

    def noted(pieces: Sequence[Any], *given: Any) -> Tensor:
        rendered.append(len(pieces))
        return resize(pieces, *given)

    monkeypatch.setattr(views, "resize", noted)
    learn("vpt-deep", augment="coda", views="fresh")
    assert sum(rendered) == 2 * 2 * 6  # tasks, epochs, images
    rendered.clear()
    learn("ranpac", "first", augment="paper", views="fresh")
    assert sum(rendered) == 2 * 6  # later tasks train nothing
    rendered.clear()
    learn("l2p", "queries", augment="paper", views="fresh")
    assert sum(rendered) == 2 * 2 * 6  # the query is of the view too


@pytest.mark.parametrize(
    ("name", "images"),
    [("l2p", 0), ("s-prompts", 2 * 6)],  # s-prompts groups the queries of the images
)
def test_plain_queries_are_computed_where_they_are_read(
    name: str, images: int, learn: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training on views reads those of the views."""
    computed: list[int] = []
    compute_frozen = Encoder.compute_frozen

    def noted(self: Encoder, keys: Sequence[bytes], pixels: np.ndarray) -> Any:
        computed.append(len(pixels))
        return compute_frozen(self, keys, pixels)

    monkeypatch.setattr(Encoder, "compute_frozen", noted)
    learn(name, augment="pilot", views="fresh")
    tests, views = 2 * 2, 2 * 2 * 6  # of two tasks; of two epochs
    assert sum(computed) == images + views + tests


@pytest.mark.parametrize(
    "name",
    [
        "l2p",
        "mulki",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("aper-adapter", "lae", "proof")),
    ],
)
def test_views_change_what_is_trained_and_as_many_as_epochs_are_fresh_ones(
    name: str, learn: Callable[..., Learner]
) -> None:
    plain = learn(name, "plain")
    kept = learn(name, "kept", augment="pilot", views=2)
    fresh = learn(name, "fresh", augment="pilot", views="fresh")
    assert same(kept, fresh)
    assert not same(plain, kept, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["aper-adapter", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dualprompt", "lae"))],
)
def test_the_rows_of_each_view_are_computed_once(
    name: str, learn: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    before = activations.ViT.tokens_before

    def noted(self: Any, block: int, pixels: Tensor) -> Any:
        counts.append(len(pixels))
        return before(self, block, pixels)

    monkeypatch.setattr(activations.ViT, "tokens_before", noted)
    kept = learn(name, "kept", epochs=6, augment="pilot", views=2)
    trained = sum(kept.method.is_trained(task) for task in range(2))
    assert sum(counts) == trained * 2 * 6  # views, images
    counts.clear()
    monkeypatch.setattr(activations, "LIMIT", 0)
    again = learn(name, "again", epochs=6, augment="pilot", views=2)
    assert sum(counts) > trained * 2 * 6
    for one, other in zip(kept.run.parts(), again.run.parts(), strict=True):
        for key, tensor in one.items():
            torch.testing.assert_close(tensor, other[key], rtol=0, atol=1e-5, msg=key)


def test_rows_of_all_views_count_for_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "LIMIT", 64)
    row = {"x": torch.zeros(1, 4)}  # 16 bytes
    first, last = torch.tensor([0]), torch.tensor([3])
    for rows, fits in ((4, True), (5, False), (0, False)):
        cache = activations.TensorCache(rows)
        cache.put(first if rows else last, row)
        assert (cache.get(first) is not None) == fits


@pytest.mark.parametrize(
    ("name", "teacher"), [("l2p", ""), ("hide-prompt", ""), ("zscl", "initial")]
)
def test_queries_and_teachers_are_of_the_view(
    name: str, teacher: str, learn: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prototypes and centroids are not: see above."""
    batches: list[tuple[Tensor, Tensor]] = []
    made: list[Views] = []
    loss, begin = methods()[name].loss, Views.__post_init__

    def noted(self: Any, batch: Batch, learned: Any) -> Tensor:
        found = batch.constants[teacher] if teacher else batch.encoded.features("plain").cls
        assert batch.index is not None
        batches.append((batch.index, found[batch.index] if teacher else found))
        return loss(self, batch, learned)

    def begun(self: Views) -> None:
        begin(self)
        made.append(self)

    monkeypatch.setattr(methods()[name], "loss", noted)
    monkeypatch.setattr(Views, "__post_init__", begun)
    learner = learn(name, batch_size=6, augment="coda", views=2)
    for step, (index, found) in enumerate(batches):
        task, epoch = divmod(step, 2)
        pixels = learner.normalise(made[task].pixels(index, epoch))
        want = learner.backbone.model(pixels).cls
        want = F.normalize(want, dim=-1) if teacher else want
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["proof", "promptfusion"])
def test_remembered_images_are_seen_as_views_of_their_squares(
    name: str, learn: Callable[..., Learner], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Views] = []
    begin = Views.__post_init__

    def begun(self: Views) -> None:
        begin(self)
        made.append(self)

    monkeypatch.setattr(Views, "__post_init__", begun)
    learner = learn(name, augment="pilot", views=2)
    remembered = learner.run.record(0).exemplars
    assert remembered
    assert [len(views.canvases) for views in made] == [6, 6 + remembered]
    assert {each.sides for each in made[1].canvases[6:]} == {(32, 32)}
    assert learner.run.record(1).exemplars > remembered


@pytest.mark.parametrize("views", [2, pytest.param("fresh", marks=pytest.mark.slow)])
def test_a_resumed_run_has_the_same_bits(
    views: int | str, make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream(TASKS, train=2, test=1)
    given = {"augment": "layup", "views": views}
    whole = make_learner("proof", stream, out="whole", **given)
    learn_stream(whole, stream)
    begun = make_learner("proof", stream, **given)
    first, second = stream.tasks
    learn_task(begun, first, stream.classes, [first.test], [second])
    opened = open_learner(
        begun.run.path,
        device="cpu",
        backbone=begun.towers,
        cache=FeatureCache(None, begun.backbone.digest),
    )
    learn_stream(opened, stream)
    assert files_of(opened.run) == files_of(whole.run)


class Torn(ArraySource):
    """A source whose second image is broken."""

    def image(self, index: int, least: int | None = None) -> Image.Image:
        if index == 1:
            raise BrokenImageError("torn")
        return super().image(index, least)


def test_a_broken_image_has_no_canvas(make_learner: MakeLearner, make_stream: MakeStream) -> None:
    stream = make_stream(TASKS, train=2)
    learner = make_learner("l2p", stream, augment="pilot", views=1)
    task, pixels = stream.tasks[0], stream.tasks[0].train.source
    assert isinstance(pixels, ArraySource)
    torn = ImageSet.of(Torn(pixels.array), task.train.labels, task.train.names)
    images, canvases = learner._load_task(replace(task, train=torn), stream.classes, 0)
    assert images.skipped == ("torn",)
    assert len(canvases) == len(images) == 3
    for canvas, square in zip(canvases, images.images, strict=True):
        picture = Image.fromarray(canvas.pixels)
        assert np.array_equal(learner.backbone.preprocess(picture), square)
    assert learner._load_task(task, stream.classes, 0)[1]
    learner.plan = None
    assert not learner._load_task(task, stream.classes, 0)[1]


def test_fresh_views_leave_nothing_in_the_cache(learn: Callable[..., Learner]) -> None:
    fresh = learn("l2p", "fresh", train=2, augment="l2p")
    kept = learn("l2p", "kept", train=2, augment="l2p", views=2)
    assert kept.cache.misses == fresh.cache.misses + 2 * 2 * 4  # tasks, views, images

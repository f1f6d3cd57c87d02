"""DAP: rows by hand, what drifts and what stays, both forms on the device."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgecl.backbones import Backbone, BackboneError, ViT
from edgecl.backbones.feature_cache import FeatureCache
from edgecl.backbones.sites import GeneratedTokens, Injection, Tokens
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.vit import generate_tokens
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.training import Compute
from edgecl.methods import Method, build_method
from edgecl.methods.base import Batch
from edgecl.methods.dap import DAP
from edgecl.program.classifiers import Encoded
from edgecl.program.fitting import TaskContext
from edgecl.program.learned import Tensors
from edgecl.program.matchers import Match
from edgecl.session import learn_stream, learn_task, open_learner
from edgecl.streams import Stream
from edgecl_export.bundle import export_program
from edgecl_export.pack import export_packs
from edgecl_export.release import export_release
from edgecl_export.verification import verify

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]

D, N = 192, 5
ONCE = {"prompt_norm_scale", "prompt_norm_shift", "prompt_down", "prompt_down_bias"}
ROWS = {"task_film", "task_keys", "head_weight", "head_bias"}
FORMS = ("generated", "snapshot")


@pytest.fixture(scope="module")
def vit(tiny_backbone: Backbone) -> ViT:
    """Return the tiny backbone in float64: then equal means equal."""
    return copy.deepcopy(tiny_backbone.model).double()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=generator())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def item_of(block: int, rows: int = 4, *images: int) -> GeneratedTokens:
    """Return an item that does something; scale and shift for all images or for each."""
    source = generator()

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    return GeneratedTokens(
        norm_scale=random(D), norm_shift=random(D),
        down=random(rows, N), down_bias=random(rows),
        gamma=random(*images, D), beta=random(*images, D), block=block,
    )  # fmt: skip


def naive_rows(item: GeneratedTokens, tokens: np.ndarray, image: int) -> np.ndarray:
    """Return one image's rows, number by number."""
    parts = {n: v.numpy() for n, v in vars(item).items() if isinstance(v, Tensor)}
    gamma, beta = (
        value if value.ndim == 1 else value[image] for value in (parts["gamma"], parts["beta"])
    )
    normed = np.empty_like(tokens)
    for index, token in enumerate(tokens):
        spread = np.sqrt(((token - token.mean()) ** 2).mean() + 1e-6)
        normed[index] = (token - token.mean()) / spread * parts["norm_scale"] + parts["norm_shift"]
    rows = np.zeros((len(parts["down"]), tokens.shape[1]))
    for row, weights in enumerate(parts["down"]):
        for weight, token in zip(weights, normed, strict=True):
            rows[row] += weight * token
        rows[row] = gamma * (rows[row] + parts["down_bias"][row]) + beta
    return rows


def tokens_in_front_of(vit: ViT, block: int, pixels: Tensor, injection: Injection = ()) -> Tensor:
    """Return what enters a block."""
    seen: list[Tensor] = []
    handle = vit.blocks[block].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        vit(pixels, injection)
    handle.remove()
    return seen[0]


# -- the rows


@pytest.mark.parametrize("images", [(), (3,)])
def test_rows_are_what_naive_arithmetic_says(images: tuple[int, ...]) -> None:
    item = item_of(0, 4, *images)
    tokens = torch.randn(3, N, D, generator=generator(), dtype=torch.float64)
    rows = generate_tokens(item, tokens).value
    want = np.stack([naive_rows(item, tokens[image].numpy(), image) for image in range(3)])
    np.testing.assert_allclose(rows.numpy(), want, rtol=0, atol=1e-12)


@torch.no_grad()
def test_every_block_generates_from_its_own_tokens(vit: ViT, pixels: Tensor) -> None:
    """Both blocks' rows, one after the other, put in as plain rows that are dropped."""
    items = (item_of(0, 4, 3), item_of(1, 2, 3))
    put: list[Tokens] = []
    for item in items:
        tokens = tokens_in_front_of(vit, item.block, pixels, tuple(put)).numpy()
        if item.block == 0:
            assert tokens.shape == (3, N, D)
        rows = np.stack([naive_rows(item, tokens[image], image) for image in range(3)])
        put.append(Tokens(torch.from_numpy(rows), item.block, keep=False))
    torch.testing.assert_close(vit(pixels, items).cls, vit(pixels, tuple(put)).cls)
    assert (vit(pixels, items).cls - vit(pixels).cls).abs().max() > 1e-3


@torch.no_grad()
def test_other_prompts_are_not_among_the_tokens_of_a_block(vit: ViT, pixels: Tensor) -> None:
    prompts = torch.randn(2, D, dtype=torch.float64, generator=generator())
    kept, item = Tokens(prompts), item_of(1)
    stream = tokens_in_front_of(vit, 1, pixels, (kept,))
    own = torch.cat([stream[:, :1], stream[:, 3:]], dim=1)
    rows = np.stack([naive_rows(item, own[image].numpy(), image) for image in range(3)])
    by_hand = Tokens(torch.from_numpy(rows), 1, keep=False)
    torch.testing.assert_close(vit(pixels, (kept, item)).cls, vit(pixels, (kept, by_hand)).cls)


@torch.no_grad()
def test_masked_rows_are_no_rows(vit: ViT, pixels: Tensor) -> None:
    long = item_of(0)
    parts = {**vars(long), "mask": torch.tensor([0.0, 0.0, -1e9, -1e9], dtype=torch.float64)}
    short = {**vars(long), "down": long.down[:2], "down_bias": long.down_bias[:2]}
    none = {**short, "down": long.down[:0], "down_bias": long.down_bias[:0]}
    torch.testing.assert_close(
        vit(pixels, (GeneratedTokens(**parts),)).cls, vit(pixels, (GeneratedTokens(**short),)).cls
    )
    torch.testing.assert_close(vit(pixels, (GeneratedTokens(**none),)).cls, vit(pixels).cls)


def test_weights_of_another_image_size(vit: ViT, pixels: Tensor) -> None:
    item = GeneratedTokens(**{**vars(item_of(0)), "down": torch.zeros(4, 17, dtype=torch.float64)})
    message = "generated from 5 tokens here, .* got weights for 17. Train them at this image size"
    with pytest.raises(BackboneError, match=message):
        vit(pixels, (item,))


# -- scales and shifts


def method_of(backbone: Backbone, **config: Any) -> Method:
    return build_method("dap", BackboneSpec.of(backbone), config)


def random_learned(method: Method, tasks: int) -> Tensors:
    source = generator()
    declared = {**method.program.declare(), **method.local()}
    sizes = {"t": tasks, "c": 2 * tasks, "p": 10}
    return {
        name: 0.3 * torch.randn(
            [{**sizes, **item.sizes}[axis] for axis in item.axis_names], generator=source
        )
        for name, item in declared.items()
    }  # fmt: skip


def test_scales_and_shifts_by_hand(tiny_backbone: Backbone) -> None:
    method = method_of(tiny_backbone)
    learned = random_learned(method, tasks=3)
    index = torch.tensor([[2], [0], [2]])
    film = method.program.injector.fill(Match(index, torch.ones(3, 1)), learned)["film"]
    assert film.shape == (3, 2, 2, D)
    arrays = {name: tensor.double().numpy() for name, tensor in learned.items()}
    for image, task in enumerate([2, 0, 2]):
        for block in range(2):
            for kind in range(2):
                weight = arrays["film_weight"][block, :, kind]
                row = arrays["task_embeddings"][task] @ weight + arrays["film_bias"][block, kind]
                row /= np.sqrt((row**2).sum())
                np.testing.assert_allclose(film[image, block, kind].numpy(), row, atol=1e-6)


def test_the_length_that_divides_gets_no_gradient(tiny_backbone: Backbone) -> None:
    """With it, no gradient would be left along the row itself."""
    injector = method_of(tiny_backbone).program.injector
    learned = random_learned(method_of(tiny_backbone), tasks=1)
    learned["film_bias"].requires_grad_()
    film = injector.film(learned["task_embeddings"], learned)
    film.square().sum().backward()
    mapped = learned["task_embeddings"] @ learned["film_weight"].flatten(2)
    length = (mapped.unflatten(-1, (2, D))[:, 0] + learned["film_bias"]).norm(dim=-1, keepdim=True)
    grad = learned["film_bias"].grad
    assert grad is not None
    torch.testing.assert_close(grad, 2 * film[0].detach() / length.detach())


def test_the_loss_by_hand(tiny_backbone: Backbone) -> None:
    method = method_of(tiny_backbone, pull=0.5)
    learned = random_learned(method, tasks=3)
    feature, score = torch.randn(3, D, generator=generator()), torch.tensor([[0.1], [0.3], [0.8]])
    labels = torch.tensor([1, 0, 1])
    match = Match(torch.full((3, 1), 2), score)
    features = tiny_backbone.model(torch.zeros(3, 3, 32, 32))._replace(cls=feature)
    loss = method.loss(Batch(Encoded(None, match, features), labels, 2), learned)
    logits = feature @ learned["head_weight"].T + learned["head_bias"]
    picked = logits[:, 4:] - torch.logsumexp(logits[:, 4:], dim=1, keepdim=True)
    torch.testing.assert_close(loss, -picked[torch.arange(3), labels].mean() - 0.5 * 0.4)


# -- a run


@pytest.fixture(scope="module")
def shelf() -> dict[str, Learner]:
    return {}


@pytest.fixture
def run_of(
    make_learner: MakeLearner, make_stream: MakeStream, shelf: dict[str, Learner]
) -> Callable[[str], Learner]:
    """Return a function that gives a finished run of a form, made once, to be read only."""

    def get(form: str) -> Learner:
        if form not in shelf:
            stream = make_stream(test=22)
            shelf[form] = make_learner("dap", stream, config={"form": form}, out=form)
            learn_stream(shelf[form], stream)
        return shelf[form]

    return get


def images_of(learner: Learner, make_stream: MakeStream, test: int = 11) -> np.ndarray:
    tasks = make_stream(test=test).tasks
    return np.concatenate([learner.load(task.test, "").images for task in tasks])


@pytest.mark.parametrize("form", FORMS)
def test_batches_of_one_and_of_sixty_four_agree(
    form: str, run_of: Callable[[str], Learner], make_stream: MakeStream
) -> None:
    learner = run_of(form)
    learned = learner.learned()
    images = torch.from_numpy(images_of(learner, make_stream)[:64])
    with torch.no_grad():
        pixels = learner.normalise(images)
        whole = learner.method.program.infer(learner.backbone.model, pixels, learned)
        assert len(whole.scores) == 64
        for row in range(64):
            one = learner.method.program.infer(
                learner.backbone.model, pixels[row : row + 1], learned
            )
            torch.testing.assert_close(one.scores[0], whole.scores[row], rtol=0, atol=1e-5)
            assert torch.equal(one.match[0], whole.match[row])


@pytest.mark.parametrize("form", FORMS)
def test_no_logit_is_masked_by_the_matched_task(
    form: str, run_of: Callable[[str], Learner], make_stream: MakeStream
) -> None:
    learner = run_of(form)
    outputs = learner.predict(images_of(learner, make_stream))
    learned = learner.learned()
    want = outputs.feature @ learned["head_weight"].T + learned["head_bias"]
    torch.testing.assert_close(outputs.scores, want, rtol=0, atol=1e-4)


def test_what_each_pack_of_a_snapshot_holds(run_of: Callable[[str], Learner]) -> None:
    run = run_of("snapshot").run
    first, *later = run.parts()
    assert first.keys() == ONCE | ROWS
    assert all(part.keys() == ROWS for part in later)
    assert not run.state(), "the map is gone with its task"
    lengths = torch.cat([part["task_film"] for part in run.parts()]).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_later_task_moves_nothing_of_a_snapshot(
    make_learner: MakeLearner, make_stream: MakeStream, bfloat16: bool
) -> None:
    stream = make_stream()
    learner = make_learner("dap", stream, config={"form": "snapshot"})
    learner.compute = Compute(torch.device("cpu"), bfloat16)
    before: dict[str, bytes] = {}
    for index, task in enumerate(stream.tasks):
        learn_task(learner, task, stream.classes)
        learned = learner.learned()
        now = {
            f"{name} {row}": value[row].numpy().tobytes()
            for name, value in learned.items()
            for row in range(len(value))
        }
        assert now.items() >= before.items()
        assert len(learned["task_film"]) == index + 1
        before = now


def test_older_prompts_of_the_other_form_drift(run_of: Callable[[str], Learner]) -> None:
    learner = run_of("generated")
    parts = learner.run.parts()
    assert not any(part.keys() & {"prompt_down", "prompt_down_bias"} for part in parts[1:])
    embedding = parts[0]["task_embeddings"]
    drift = [learner.method.program.injector.film(embedding, part) for part in (parts[0], parts[2])]
    assert (drift[0] - drift[1]).abs().max() > 1e-3
    norms = [part["prompt_norm_scale"] for part in (parts[0], parts[2])]
    assert not torch.equal(*norms)


def test_a_snapshot_is_the_generated_form_behind_the_training_of_its_task(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the images of the task itself; the map is that of the training's end."""
    leaves: list[Tensors] = []
    stream = make_stream()
    learner = make_learner("dap", stream, config={"form": "snapshot"})
    parametrize = DAP.parametrize

    def noted(self: DAP, tensors: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        leaves.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
        return parametrize(self, tensors, task, final=final)

    monkeypatch.setattr(DAP, "parametrize", noted)
    faithful = method_of(learner.backbone, form="generated")
    for task in stream.tasks:
        learn_task(learner, task, stream.classes)
        learned, last = learner.learned(), leaves[-1]
        as_trained = learned | {name: last[name] for name in faithful.program.injector.film_map()}
        older = learned["task_keys"][:-1].new_zeros(len(learned["task_keys"]) - 1, 16)
        as_trained["task_embeddings"] = torch.cat([older, last["task_embeddings"]])
        images = torch.from_numpy(learner.load(task.train, "").images[:])
        with torch.no_grad():
            pixels, model = learner.normalise(images), learner.backbone.model
            want = faithful.program.encode(model, pixels, as_trained, training=True)
            got = learner.method.program.encode(model, pixels, learned, training=True)
        assert want.injected is not None
        assert got.injected is not None
        torch.testing.assert_close(got.injected.cls, want.injected.cls, rtol=0, atol=1e-5)
        assert got.plain is not None
        assert (got.injected.cls - got.plain.cls).abs().max() > 1e-3


def test_a_resumed_snapshot_equals_an_uninterrupted_one(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    stream = make_stream()
    runs = [make_learner("dap", stream, config={"form": "snapshot"}, out=out) for out in "ab"]
    whole, learner = runs
    learn_stream(whole, stream)
    for index, task in enumerate(stream.tasks):
        tests = [each.test for each in stream.tasks[: index + 1]]
        learn_task(learner, task, stream.classes, tests)
        learner = open_learner(
            learner.run.path, device="cpu", backbone=learner.backbone,
            cache=FeatureCache(None, learner.backbone.digest),
        )  # fmt: skip
    for one, other in zip(whole.run.parts(), learner.run.parts(), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_tensor_of_a_snapshot_s_training_moves(
    make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Tensors] = []
    stream = make_stream(((0, 1),), train=8)
    learner = make_learner("dap", stream, config={"form": "snapshot"})
    parametrize = DAP.parametrize

    def noted(self: DAP, tensors: Tensors, task: TaskContext, *, final: bool) -> Tensors:
        steps.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
        return parametrize(self, tensors, task, final=final)

    monkeypatch.setattr(DAP, "parametrize", noted)
    learn_stream(learner, stream)
    trained = {name for name, item in learner.method.program.declare().items() if item.trained}
    assert steps[0].keys() == trained | learner.method.local().keys()
    for name, start in steps[0].items():
        assert not torch.equal(start, steps[-1][name]), name


def test_the_device_says_of_a_snapshot_what_pytorch_says(
    run_of: Callable[[str], Learner], tmp_path: Path
) -> None:
    """The other form, the default, is among the methods of the export tests."""
    learner = run_of("snapshot")
    export_program(learner.method.program, learner.backbone, tmp_path / "bundle")
    export_packs(learner.run, tmp_path / "packs", dtype="float32")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    result = verify(learner, tmp_path / "bundle", tmp_path / "release")
    assert result.failures() == []
    assert result.agreement == 1
    assert len(result.checks) == 3
    assert max(check.score_error for check in result.checks) <= 1e-5


# -- configuration


def test_forms_are_programs_of_their_own(tiny_backbone: Backbone) -> None:
    one, other = (method_of(tiny_backbone, form=form).program for form in FORMS)
    assert one.interface != other.interface
    assert method_of(tiny_backbone, length=4).program.interface == one.interface


def test_a_spec_of_before_there_were_token_counts(tiny_backbone: Backbone) -> None:
    spec = BackboneSpec.of(tiny_backbone)
    assert spec.tokens == N
    stored = spec.to_json()
    assert BackboneSpec.from_json(stored) == spec
    del stored["tokens"]
    assert BackboneSpec.from_json(stored).tokens == 0


@pytest.mark.parametrize("config", [{"length": 0}, {"embedding": 0}])
def test_a_config_without_sense(tiny_backbone: Backbone, config: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=r"must be at least 1, got .* Raise it"):
        method_of(tiny_backbone, **config)

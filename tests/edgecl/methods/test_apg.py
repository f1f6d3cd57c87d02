"""APG: the token that the pass makes, what trains it, and what is drawn of former classes."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.edgecl.support import bank, generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.backbones import Backbone
from edgecl.backbones.attended import attended
from edgecl.backbones.sites import AttendedToken, Tokens
from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.methods.apg import APG
from edgecl.methods.apg.aims import LONGEST, SMOOTHING, TOO_LONG, Aims, made_of
from edgecl.methods.apg.past import Draws
from edgecl.program.classifiers.proxies import Proxies
from edgecl.program.injectors import AttendedPrompt
from edgecl.program.learned import Tensors
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeLearner = Callable[..., Learner]
MakeStream = Callable[..., Stream]
D, HEADS = 8, 4


def learned_of(width: int = D, classes: int = 3, proxies: int = 2) -> Tensors:
    """Return random tensors of a generator and a head, in float64."""
    declared = {**AttendedPrompt(width, 1).declare(), **Proxies(width, proxies).declare()}
    return {
        name: 0.3 * bank(*item.shape(classes), seed=seed)
        for seed, (name, item) in enumerate(declared.items())
    }


def gelu(value: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda x: x * (1 + math.erf(x / 2**0.5)) / 2)(value)


def by_hand(learned: Tensors, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the token of one [CLS] and the logits, head by head and row by row."""
    arrays = {name: tensor.numpy() for name, tensor in learned.items()}

    def layer(index: int, rows: np.ndarray) -> np.ndarray:
        return rows @ arrays["generator_weight"][index] + arrays["generator_bias"][index]

    entered = layer(1, gelu(layer(0, x.numpy())))
    normed = (entered - entered.mean()) / np.sqrt(entered.var() + 1e-5)
    asks = normed * arrays["generator_scale"] + arrays["generator_shift"]
    rows = np.stack([asks, *arrays["class_tokens"]])
    query, keys, values = layer(2, asks), layer(3, rows), layer(4, rows)
    size = len(asks) // HEADS
    logits, joined = np.zeros((HEADS, len(rows))), []
    for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        logits[head] = keys[:, own] @ query[own] / size**0.5
        share = np.exp(logits[head]) / np.exp(logits[head]).sum()
        joined.append(share / size**0.5 @ values[:, own])
    return layer(7, gelu(layer(6, layer(5, np.concatenate(joined))))), logits


def test_a_token_is_made_by_attention_over_itself_and_the_bank() -> None:
    learned, x = learned_of(), bank(3, D, seed=9)
    row, logits = AttendedPrompt(D, 1).made(x, learned)
    for image in range(3):
        want, among = by_hand(learned, x[image])
        np.testing.assert_allclose(row[image], want, atol=1e-12)
        np.testing.assert_allclose(logits[:, image], among[:, 1:], atol=1e-12)


def test_it_stays_after_cls_from_its_block_on(tiny_backbone: Backbone) -> None:
    vit, pixels = copy.deepcopy(tiny_backbone.model).double(), bank(3, 3, 32, 32)
    prompt, learned = AttendedPrompt(192, 1), learned_of(192)
    item = prompt.item(learned)
    x = vit.tokens_before(1, pixels)[:, 0]
    row, _ = prompt.made(x, learned)
    found = vit(pixels, (item,), taps=2)
    torch.testing.assert_close(found.taps[:, 0], x, msg="what the method reads of it")
    want = vit(pixels, (Tokens(row.unsqueeze(1), 1),))
    torch.testing.assert_close(found.cls, want.cls)
    torch.testing.assert_close(found.prompt, want.prompt)
    assert (found.cls - vit(pixels).cls).abs().max() > 1e-2
    empty = {**vars(item), "bank": item.bank[:0]}
    padded = {**vars(item), "bank": 0 * item.bank, "mask": torch.full((3,), -1e9)}
    for none in (empty, padded):
        torch.testing.assert_close(vit(pixels, (AttendedToken(**none),)).cls, vit(pixels).cls)


def test_padding_of_the_bank_changes_nothing() -> None:
    learned, x = learned_of(), bank(3, D, seed=9)
    item = AttendedPrompt(D, 1).item(learned)
    padded = {
        **vars(item),
        "bank": F.pad(item.bank, (0, 0, 0, 2)),
        "mask": torch.tensor([0, 0, 0, -1e9, -1e9]),
    }
    torch.testing.assert_close(attended(AttendedToken(**padded), x)[0], attended(item, x)[0])


def test_a_score_is_the_mean_of_proxies_by_their_own_softmax() -> None:
    learned, feature = learned_of(), bank(4, D, seed=5)
    found = Proxies(D, 2).of(feature, learned)
    for row in range(4):
        for label in range(3):
            logits = learned["proxies"][label] @ feature[row] + learned["proxy_bias"][label]
            torch.testing.assert_close(found[row, label], logits.softmax(0) @ logits)


def test_what_images_and_draws_ask_for() -> None:
    learned, x, scores = learned_of(), bank(4, D, seed=5), bank(4, 3, seed=6)
    prompt, head = AttendedPrompt(D, 1), Proxies(D, 2)
    aims, rows = Aims(prompt, head), torch.tensor([2, 0, 1, 2])
    row, attention = prompt.made(x, learned)
    each = [F.cross_entropy(attention[h], rows) for h in range(HEADS)]
    want = F.cross_entropy(scores, rows, label_smoothing=SMOOTHING) + torch.stack(each).mean()
    torch.testing.assert_close(aims.own(scores, rows, x, learned), want)
    small = 1e-6 * x  # so the prompt is too long
    row, attention = prompt.made(small, learned)
    each = [F.cross_entropy(attention[h], rows) for h in range(HEADS)]
    above = row.abs().sum(1).mean() - LONGEST * small.abs().sum(1).mean()
    assert above > 0
    want = F.cross_entropy(scores, rows, label_smoothing=SMOOTHING) + torch.stack(each).mean()
    torch.testing.assert_close(aims.own(scores, rows, small, learned), want + TOO_LONG * above)
    drawn = {"x": x, "prompt": bank(4, D, seed=7), "feature": bank(4, D, seed=8), "row": rows}
    want = (prompt.made(x, learned)[0] - drawn["prompt"]).abs().mean()
    want = want + F.cross_entropy(head.of(drawn["feature"], learned), rows)
    torch.testing.assert_close(aims.held(drawn, learned), want)


def test_draws_are_of_all_classes_as_many() -> None:
    spread = bank(2, D, D, seed=1).float()
    state = {
        "prompts": torch.arange(2.0)[:, None].repeat(1, D),
        "x_means": torch.tensor([0.0, 50.0])[:, None].repeat(1, D),
        "x_covariances": spread @ spread.mT,
        "feature_means": torch.tensor([-50.0, 9.0])[:, None].repeat(1, D),
        "feature_covariances": torch.zeros(2, D, D),
    }
    draws = Draws(state)
    drawn = draws.take(5000, generator())
    assert drawn["row"].bincount().tolist() == [5000, 5000]
    second = drawn["row"] == 1
    torch.testing.assert_close(
        torch.cov(drawn["x"][second].T), state["x_covariances"][1], atol=1.0, rtol=0.05
    )
    assert (drawn["x"][second].mean(0) - 50).abs().max() < 0.5
    assert (drawn["feature"][second] - 9).abs().max() < 0.1
    assert torch.equal(drawn["prompt"][:, 0], drawn["row"].float())
    dealt = draws.for_images(5, 3, generator())
    assert dealt["drawn_x"].shape == (5, 3, D)
    assert sorted(dealt["drawn_row"].flatten().bincount().tolist()) == [7, 8]
    assert torch.equal(dealt["drawn_feature"].mean(-1) > 0, dealt["drawn_row"] == 1)


def test_a_run_keeps_tokens_and_remembers_what_it_ships(
    make_learner: MakeLearner, make_stream: MakeStream
) -> None:
    """The statistics of a class are those of its images under the tensors of its own task."""
    stream = make_stream(((0, 1), (2, 3)), train=3)
    learner = make_learner("apg", stream)
    learn_stream(learner, stream)
    method, (first, second) = learner.method, learner.run.parts()
    assert isinstance(method, APG)
    assert second["class_tokens"].min() > -0.01, "later tokens start in [0, 1]"
    assert first["class_tokens"].min() < -0.02
    assert second["proxies"].shape[0] == 4
    assert not torch.equal(second["proxies"][:2], first["proxies"]), "all rows go on"
    images = learner.load(stream.tasks[1].train, "").images
    with torch.no_grad():
        pixels = learner.normalise(torch.from_numpy(np.asarray(images)))
        encoded = method.program.encode(learner.backbone.model, pixels, learner.learned())
        prompts, _ = method.prompt.made(made_of(encoded), learner.learned())
    state = learner.run.state()
    assert len(state["prompts"]) == 4
    torch.testing.assert_close(
        state["prompts"][2:], prompts.unflatten(0, (2, 3)).mean(1), atol=1e-5, rtol=0
    )


def test_later_tasks_are_trained_more_slowly_and_tuned_longer(make_learner: MakeLearner) -> None:
    method = make_learner("apg").method
    assert not method.schedule(0).rates
    assert set(method.schedule(1).rates.values()) == {0.09375}
    assert method.schedule(1).rates.keys() == method.program.declare().keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block": 0}, "apg.block must be at least 1, got 0. Raise it"),
        ({"replay": 0}, "apg.replay must be at least 1, got 0. Raise it"),
        ({"later": 0.0}, "apg.later must be at least 1e-06, got 0.0. Raise it"),
    ],
)
def test_settings(make_learner: MakeLearner, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        make_learner("apg", config=wrong)

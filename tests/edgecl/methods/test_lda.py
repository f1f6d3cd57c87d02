"""LDA and CLIP-LDA: what they learn without a gradient, and what of CLIP stays."""

from collections.abc import Callable

import pytest
import torch

from edgecl.backbones import Clip
from edgecl.backbones.spec import BackboneSpec
from edgecl.backbones.text_encoder import TextEncoder
from edgecl.errors import MethodError
from edgecl.learning import training
from edgecl.learning.learner import Learner
from edgecl.methods import build_method
from edgecl.methods.lda import ClipLda
from edgecl.session import learn_stream
from edgecl.streams import Stream

MakeStream = Callable[..., Stream]
MakeLearner = Callable[..., Learner]


@pytest.mark.parametrize("name", ["lda", "clip-lda"])
def test_there_is_no_gradient(
    name: str, make_learner: MakeLearner, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is trained")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    monkeypatch.setattr(training, "make_optimizer", refuse)
    stream = make_stream(((0, 1), (2, 3)), train=6)
    learner = make_learner(name, stream, config={"rff": 64})
    assert learn_stream(learner, stream).a_last == 1.0
    assert learner.method.trains == "never"
    state = learner.run.state()
    assert {key: tensor.dtype for key, tensor in state.items()} == dict.fromkeys(
        ("gram", "moments"), torch.float64
    )
    assert state["moments"][-1].tolist() == [6.0] * 4, "the last feature counts the images"


def test_a_clip_keeps_its_zero_shot_among_classes_to_come(
    make_learner: MakeLearner, make_stream: MakeStream, tiny_clip: Clip
) -> None:
    stream = make_stream(((0, 1), (2, 3)))
    learner = make_learner("clip-lda", stream)
    learn_stream(learner, stream)
    method = learner.method
    assert isinstance(method, ClipLda)
    learned = learner.learned()
    names = ["hue-4", "hue-5", "hue-6"]
    text = TextEncoder(tiny_clip)
    rows = method.zero_shot_rows(text, names, learned)
    wide = learned | {name: torch.cat([learned[name], own]) for name, own in rows.items()}
    images = learner.load(stream.tasks[0].test, "").images
    outputs = learner.predict(images, wide)
    want = outputs.feature @ text.zero_shot(names).T
    found = outputs.scores[:, 4:] / learned["text_scale"]
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    assert (outputs.scores.argmax(dim=1) < 4).all(), "learned classes are seen"


@pytest.mark.parametrize(
    ("name", "config", "say"),
    [
        ("lda", {"rff": 3}, "lda.rff must be even"),
        ("lda", {"rff": -2}, "lda.rff must be at least 0"),
        ("lda", {"gamma": 0.0}, "gamma above 0"),
        ("clip-lda", {"share": 0.0}, "the method zero-shot"),
        ("clip-lda", {"share": 1.1}, "at most 1"),
    ],
)
def test_wrong_settings(name: str, config: dict[str, float], say: str, tiny_clip: Clip) -> None:
    with pytest.raises(MethodError, match=say):
        build_method(name, BackboneSpec.of(tiny_clip), config)

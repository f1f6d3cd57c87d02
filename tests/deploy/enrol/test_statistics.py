"""What a device sends of its classes: sums over features, checked by whoever reads them."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.deploy.support.enrolling import (
    CYAN,
    YELLOW,
    colours_of,
    release,
    ridge_release,
    ridge_world,
    shades,
)
from tests.deploy.support.following import take
from tests.deploy.support.sources import MemorySource
from tests.deploy.support.world import World

from edgecl_deploy import Classifier
from edgecl_deploy.cli import device
from edgecl_deploy.errors import DeployError, LimitError, OptionError, StatisticsError
from edgecl_deploy.format import (
    MEAN,
    RIDGE,
    Statistics,
    SummedClass,
    packed,
    parse_statistics,
    read_tensors,
    turned,
    write_tensors,
)
from edgecl_deploy.store.store import Store
from edgecl_deploy.unknown.own import unit

OLD = {"red": shades((0.9, 0.1, 0.1), 6), "green": shades((0.1, 0.9, 0.2), 5, seed=1)}
NEW, MORE = shades(YELLOW, 2), shades((0.8, 0.2, 0.1), 5, seed=4)


def made(seed: int = 0, *, images: int = 3, size: int = 8, kind: str = RIDGE) -> Statistics:
    """Statistics of random features of two classes."""
    rows = np.random.default_rng(seed).normal(0.5, 1, (2 * images, size))
    gram = turned(rows) if 2 * len(rows) <= size else packed(rows.T @ rows)
    return Statistics(
        id=f"{seed:032x}", kind=kind, program="ranpac", interface="1" * 64, backbone="2" * 64,
        space="3" * 64, classes=(SummedClass("a", images, True), SummedClass("b", images, False)),
        sums=np.stack([rows[:images].sum(axis=0), rows[images:].sum(axis=0)]),
        gram=gram if kind == RIDGE else None, sources=("4" * 64,), device="line 7", created=1,
        normed=np.stack([unit(each).sum(axis=0) for each in (rows[:images], rows[images:])])
        if kind == RIDGE and images != 3 else None,
    )  # fmt: skip


# -- the file


@pytest.mark.parametrize(("images", "kind"), [(2, RIDGE), (30, RIDGE), (3, RIDGE), (3, MEAN)])
def test_a_file_is_read_as_it_was_written(images: int, kind: str) -> None:
    wanted = made(images=images, kind=kind)
    found = parse_statistics(wanted.to_bytes())
    assert (found.classes, found.sources, found.id) == (wanted.classes, wanted.sources, wanted.id)
    np.testing.assert_array_equal(found.sums, wanted.sums)
    if kind == RIDGE:
        rows = np.random.default_rng(0).normal(0.5, 1, (2 * images, 8))
        np.testing.assert_allclose(found.square(), rows.T @ rows, rtol=0, atol=1e-12 * images)
        assert found.gram.ndim == (2 if images == 2 else 1)
    assert found.to_bytes() == wanted.to_bytes()
    held = json.loads(read_tensors(wanted.to_bytes())["manifest"].tobytes())
    assert held["format"] == f"edgecl-statistics/{1 if images == 3 else 2}"
    assert (found.normed is None) == (images == 3)


def test_turned_rows_are_no_image_s_own() -> None:
    rows = np.random.default_rng(1).normal(0, 1, (4, 9))
    found = turned(rows)
    np.testing.assert_allclose(found.T @ found, rows.T @ rows, rtol=0, atol=1e-13)
    cosine = found @ rows.T / np.outer(np.linalg.norm(found, axis=1), np.linalg.norm(rows, axis=1))
    assert np.abs(cosine).max() < 0.99


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return the file with one to three changes: a bit, a cut, an insertion, a swap."""
    found = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at, act = draw.randrange(len(found)), draw.randrange(5)
        if act <= 1:
            found[at] ^= 1 << draw.randrange(8)
        elif act == 2:
            del found[at : at + draw.randint(1, 9)]
        elif act == 3:
            found[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 9)))
        else:
            to = draw.randrange(len(found))
            found[at : at + 8], found[to : to + 8] = found[to : to + 8], found[at : at + 8]
    return bytes(found)


def try_mutations(count: int) -> None:
    draw = random.Random("statistics")  # noqa: S311
    seeds = [
        made(images=2).to_bytes(), made(images=30).to_bytes(), made().to_bytes(),
        made(kind=MEAN).to_bytes(),
    ]  # fmt: skip
    for number in range(count):
        data = seeds[number % len(seeds)]
        other = mutated(data, draw)
        try:
            parse_statistics(other)
        except DeployError:
            continue
        assert other == data  # two swaps of one place, the one way to be read


def test_no_changed_file_is_read() -> None:
    try_mutations(4_000)


@pytest.mark.slow
def test_no_changed_file_is_read_in_a_hundred_thousand() -> None:
    try_mutations(100_000)


def resealed(**changes: object) -> bytes:
    """Return a file that says of itself that it is whole, with other content."""
    return replace(made(images=2), **changes).to_bytes()


NAN = np.full((2, 8), np.nan)
ROWS = made(images=2).gram


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"id": "no"}, "32 lower-case"),
        ({"kind": "text"}, "one of mean, ridge"),
        ({"kind": MEAN}, "must hold sums"),
        ({"gram": None}, "must hold the tensor gram"),
        ({"sums": NAN}, "finite"),
        ({"sums": NAN.astype(np.float32)}, "float64"),
        ({"sums": made().sums[:1]}, r"2 classes must be \[k, m\]"),
        ({"sums": 100 * made().sums}, "no longer than its images"),
        ({"gram": np.zeros((9, 8))}, "at most 4 rows"),
        ({"gram": np.zeros(8)}, "at most 4 rows"),
        ({"gram": -packed(np.eye(8))}, "no longer than its images"),
        ({"normed": np.zeros((3, 8))}, r"2 classes must be \[k, w\]"),
        ({"normed": NAN}, "normed must be finite"),
        ({"normed": np.eye(2, 8) * 2.1}, "features of length 1 must be no longer"),
        ({"classes": (SummedClass("a", -1, False), SummedClass("b", 2, False))}, "whole number"),
        ({"classes": (SummedClass("a", 2, False), SummedClass("a", 2, False))}, "each once"),
        ({"classes": ()}, "one class or more"),
        ({"sources": ("4" * 64, "4" * 64)}, "without repetition"),
        ({"extra": {"more": 1}}, None),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, dict) else "",
)
def test_what_no_images_give_is_refused(changes: dict[str, object], wrong: str | None) -> None:
    data = resealed(**changes)
    if wrong is None:
        assert parse_statistics(data).extra == {"more": 1}
        return
    with pytest.raises(DeployError, match=wrong):
        parse_statistics(data)


def test_noise_and_other_files_are_refused() -> None:
    tensors = dict(read_tensors(made().to_bytes()))
    manifest = json.loads(tensors["manifest"].tobytes())
    manifest["noise"] = {"sigma": 1.0}
    tensors["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    with pytest.raises(DeployError, match="noise must be null"):
        parse_statistics(write_tensors(tensors))
    with pytest.raises(DeployError, match="Name a file that"):
        parse_statistics(write_tensors({"sums": made().sums}))
    with pytest.raises(LimitError, match="at most 100 bytes"):
        parse_statistics(made().to_bytes(), largest=100)


# -- a device


def test_a_device_adds_up_what_its_head_sees(world: World) -> None:
    linear = ridge_world(world)
    path = ridge_release(linear, 1, OLD).write(linear.fresh())
    folder = linear.root / "mine"
    with Classifier.open(linear.bundle_path, path, local=folder, threads=1) as classifier:
        with pytest.raises(StatisticsError, match="Enrol one first"):
            classifier.statistics()
        classifier.enrol("lemon", NEW, force=True)
        classifier.enrol("red", MORE, force=True)
        classifier.enrol("lemon", shades(CYAN, 1), force=True)
        found = parse_statistics(classifier.statistics(device="line 7"))
        again = parse_statistics(classifier.statistics(["red"]))
    lemon, red = colours_of([*NEW, *shades(CYAN, 1)]), colours_of(MORE)
    assert [each.to_json() for each in found.classes] == [
        {"name": "lemon", "images": 3, "known": False},
        {"name": "red", "images": 5, "known": True},
    ]
    rows = np.concatenate([lemon, red])
    np.testing.assert_allclose(found.sums, [lemon.sum(axis=0), red.sum(axis=0)], atol=1e-5)
    np.testing.assert_allclose(found.square(), rows.T @ rows, atol=1e-5)
    units = [unit(each).sum(axis=0) for each in (lemon, red)]
    np.testing.assert_allclose(found.normed, units, atol=1e-5)
    assert (found.device, found.release, len(found.sources)) == ("line 7", 1, 3)
    assert again.id != found.id
    assert set(again.sources) < set(found.sources)


def test_a_release_that_comes_meanwhile_is_not_mixed_with_the_one_before(world: World) -> None:
    linear = ridge_world(world)
    paths = [ridge_release(linear, n, OLD).write(linear.fresh()) for n in (1, 2)]
    folder = linear.root / "mine"
    with Classifier.open(linear.bundle_path, paths[0], local=folder, threads=1) as classifier:
        classifier.enrol("lemon", NEW, force=True)
        before, own = classifier.loaded.alone, classifier.overlays
        classifier.swap(paths[1])
        found = own.statistics(before, (), "line 7")
    assert (found.release, [each.name for each in found.classes]) == (2, ["lemon"])


def run(*arguments: object, answer: str = "") -> object:
    return CliRunner().invoke(device, [str(each) for each in arguments], input=answer)


def test_nothing_is_written_before_somebody_agrees(
    store: Store, opened: Callable[..., Classifier], tmp_path: Path
) -> None:
    opened(store).enrol("lemon", NEW, force=True)
    out = tmp_path / "sums.safetensors"
    refused = run("enrolled", "export", store.path, "-o", out, answer="n\n")
    assert refused.exit_code == 1
    assert "lemon (2 images)" in refused.stderr
    assert "as sensitive as the images" in refused.stderr
    assert run("enrolled", "export", store.path, "-o", out, "--json").exit_code == 2
    assert not out.exists()
    told = run("enrolled", "export", store.path, "lemon", "-o", out, "--yes", "--json")
    assert told.exit_code == 0, told.output
    assert out.stat().st_mode & 0o777 == 0o600
    found = parse_statistics(out.read_bytes())
    assert json.loads(told.stdout)["id"] == found.id
    assert (found.kind, found.device, found.gram) == (MEAN, store.config.device, None)
    assert (
        "edgecl enrolled merge" in run("enrolled", "export", store.path, "-o", out, "--yes").stdout
    )
    unknown = run("enrolled", "export", store.path, "pear", "-o", out, "--yes")
    assert "must be a class of this device that answers" in unknown.stderr


def test_a_class_that_the_publisher_took_is_not_sent(
    toy: World,
    store: Store,
    source: MemorySource,
    opened: Callable[..., Classifier],
    tmp_path: Path,
) -> None:
    opened(store).enrol("lemon", NEW, force=True)
    take(store, source, release(toy, 2, lemon=CYAN))
    told = run("enrolled", "export", store.path, "lemon", "-o", tmp_path / "sums", "--yes")
    assert "release 2 has a class of this name" in told.stderr


def test_a_bundle_has_no_id(toy: World, tmp_path: Path) -> None:
    path, folder = release(toy, 1).write(toy.fresh()), tmp_path / "mine"
    where = (toy.bundle_path, path, "--local", folder)
    with (
        Classifier.open(toy.bundle_path, path, threads=1) as classifier,
        pytest.raises(OptionError, match="Pass local=FOLDER"),
    ):
        classifier.statistics()
    with Classifier.open(toy.bundle_path, path, local=folder, threads=1) as classifier:
        classifier.enrol("lemon", NEW, force=True)
    assert run("enrolled", "export", *where, "-o", tmp_path / "sums", "--yes").exit_code == 0
    assert parse_statistics((tmp_path / "sums").read_bytes()).device == "a device"

"""A class that a device takes by its name alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.deploy.support.asking import serving
from tests.deploy.support.enrolling import DECLARED, cosine_world, release, shades
from tests.deploy.support.following import take, until
from tests.deploy.support.scored import scored_release
from tests.deploy.support.sources import MemorySource, Quick, make_store
from tests.deploy.support.texts import write_text
from tests.deploy.support.world import COLOURS, World

from edgecl_deploy import Classifier, TextEncoder
from edgecl_deploy.cli import device
from edgecl_deploy.errors import (
    EnrolmentUnsupportedError,
    NameTakenError,
    TensorShapeError,
    WrongBackboneError,
)
from edgecl_deploy.format import MEAN, TEXT, digest
from edgecl_deploy.server.guard import Guard, Rights
from edgecl_deploy.store.store import Store

TOLERANCE = 1e-5  # of the text program
PICTURES = [each for i, c in enumerate(COLOURS.values()) for each in shades(c, 3, seed=i)]
NAME = "abc 12"


def declared(world: World, kind: str) -> World:
    plain = replace(world.bundle.programs["plain"], enrol=replace(DECLARED, kind=kind))
    world.bundle = replace(world.bundle, programs={**world.bundle.programs, "plain": plain})
    (world.bundle_path / "bundle.json").write_bytes(world.bundle.to_bytes())
    return world


@pytest.fixture
def toy(world: World) -> World:
    """Its program compares with names."""
    return declared(cosine_world(world), TEXT)


@pytest.fixture
def text(toy: World) -> Path:
    return write_text(toy)


def scores(classifier: Classifier) -> np.ndarray:
    return classifier.scores(np.stack(PICTURES)).scores


def test_it_answers_as_if_the_release_had_the_name(toy: World, store: Store, text: Path) -> None:
    encoder = TextEncoder.open(text)
    row = encoder.embed([NAME])[0]
    published = make_store(
        toy, toy.root / "published", release(toy, 1, **{NAME: row}), disk=Quick()
    )
    with (
        Classifier.open(store.path, threads=1) as classifier,
        Classifier.open(published.path, threads=1) as wanted,
    ):
        before = scores(classifier)
        assert classifier.enrol_name(NAME, encoder, dry_run=True).local == 0
        found = classifier.enrol_name(f" {NAME} ", encoder, note="asked for", force=True)
        assert (found.name, found.images, found.loo, found.local) == (NAME, 0, (), 1)
        assert found.nearest is not None
        assert scores(classifier) == pytest.approx(scores(wanted), abs=TOLERANCE)
        assert (scores(classifier)[:, :-1] == before).all()
        (one,) = classifier.enrolled
        assert (one.name, one.state, one.images, one.note) == (NAME, "active", 0, "asked for")
        with Classifier.open(store.path, threads=1) as again:
            assert (scores(again) == scores(classifier)).all()
        other = encoder.embed(["cat"], ["a {}"])[0]
        classifier.enrol_name("cat", encoder, templates=["a {}"], force=True)
        assert classifier.loaded.learned["prototypes"][-1] == pytest.approx(other, abs=TOLERANCE)
        for name in ("cat", NAME):
            classifier.unenrol(name)
        assert (scores(classifier) == before).all()


def test_the_next_release_has_it_too_until_it_publishes_the_name(
    toy: World, store: Store, text: Path
) -> None:
    source, encoder = MemorySource(), TextEncoder.open(text)
    with Classifier.open(store.path, threads=1) as classifier:
        classifier.enrol_name(NAME, encoder, force=True)
        take(store, source, release(toy, 2, ("red", "green", "blue")))
        assert until(lambda: classifier.release == 2)
        assert [each.state for each in classifier.enrolled] == ["active"]
        assert NAME in classifier.classes
        row = encoder.embed([NAME])[0]
        take(store, source, release(toy, 3, **{NAME: row}))
        assert until(lambda: classifier.release == 3)
        assert [each.state for each in classifier.enrolled] == ["superseded"]


def test_it_is_judged_by_the_pooled_distances_of_the_release(toy: World, text: Path) -> None:
    made = scored_release(toy, 1, "red", "green")
    store = make_store(toy, toy.root / "scored", made, disk=Quick())
    with Classifier.open(store.path, threads=1) as classifier:
        classifier.enrol_name(NAME, TextEncoder.open(text), force=True)
        answers = classifier.predict(PICTURES)
        assert {each.basis for each in answers if each.label == "red"} == {"class"}
        assert classifier.loaded.reference.names == ("red", "green", NAME)
        judged = classifier.loaded.reference.judge(np.eye(3, dtype=np.float32), 0.05)
        assert judged.pooled[:, 2].all()
        assert [judged.basis(0, label) for label in range(3)] == ["class", "class", "name"]


def test_what_cannot_be_taken_by_name(toy: World, store: Store, text: Path) -> None:
    with Classifier.open(store.path, threads=1) as classifier:
        encoder = TextEncoder.open(text)
        with pytest.raises(EnrolmentUnsupportedError, match="classes are names, not images"):
            classifier.enrol("lemon", PICTURES[:2])
        with pytest.raises(NameTakenError, match="must be new"):
            classifier.enrol_name("red", encoder)
        classifier.enrol_name(NAME, encoder, force=True)
        with pytest.raises(NameTakenError, match="must be new"):
            classifier.enrol_name(NAME, encoder)
        foreign = TextEncoder.open(write_text(toy, backbone=digest(b"other")))
        with pytest.raises(WrongBackboneError, match="edgecl export text"):
            classifier.enrol_name("cat", foreign)
        with pytest.raises(TensorShapeError, match="3 numbers"):
            classifier._own().enrol_name(classifier, "cat", np.ones(4, np.float32))
        assert [each.name for each in classifier.enrolled] == [NAME]
    means = declared(toy, MEAN)
    other = make_store(means, means.root / "means", release(means, 1), disk=Quick())
    with (
        Classifier.open(other.path, threads=1) as classifier,
        pytest.raises(EnrolmentUnsupportedError, match="classes are images, not names"),
    ):
        classifier.enrol_name("cat", encoder)


def test_the_command(store: Store, text: Path, tmp_path: Path) -> None:
    def run(*words: object) -> object:
        return CliRunner().invoke(device, ["enrol", str(store.path), *map(str, words)])

    by_name = ("--by-name", "--text", text, "--force")
    found = run(NAME, *by_name, "--template", "a {}")
    assert found.exit_code in {0, 3}, found.output
    assert f"{NAME}: by its name; local generation 1" in found.stdout
    shown = CliRunner().invoke(device, ["enrolled", "list", str(store.path), "--json"])
    assert [each["name"] for each in json.loads(shown.stdout)["enrolled"]] == [NAME]
    for words, says in (
        ((NAME, tmp_path, *by_name), "takes one name, no images"),
        ((NAME, "--by-name"), "takes one name, no images"),
        ((NAME, tmp_path, "--text", text), "are for --by-name"),
    ):
        wrong = run(*words)
        assert (wrong.exit_code, says in wrong.stderr) == (2, True), wrong.output


def test_a_server_takes_it(store: Store, text: Path) -> None:
    path, headers = "/edgecl/v1/enrolled", {"Content_Type": "application/json"}
    body = {"name": NAME, "by_name": True, "force": True}
    with Classifier.open(store.path, threads=1) as classifier:
        may = Guard(anyone=Rights.ENROL)
        with serving(classifier, may) as server:
            found = server.post(path, body, **headers)
            assert (found.status, "--text TEXT_PROGRAM" in found.error) == (422, True)
        with serving(classifier, may, text=TextEncoder.open(text, threads=1)) as server:
            for more in ({"images": []}, {"keep_images": True}, {"templates": ["no place"]}):
                assert server.post(path, {**body, **more}, **headers).status == 400
            found = server.post(path, {**body, "templates": ["a {}"]}, **headers)
            assert (found.status, found.json["version"]) == (200, "1.1")
            assert [each["name"] for each in server.get(path).json["enrolled"]] == [NAME]
            assert server.post(path, body, **headers).status == 409
        assert NAME in classifier.classes

"""What a device answers with the scores that packs hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.deploy.support.asking import serving
from tests.deploy.support.enrolling import (
    YELLOW,
    colours_of,
    cosine_world,
    ridge_world,
    shades,
)
from tests.deploy.support.scored import scored_packs, scored_release, scored_ridge
from tests.deploy.support.sources import Quick, make_store
from tests.deploy.support.variants import LICENCE, add_variant, licensed
from tests.deploy.support.world import COLOURS, World, picture

from edgecl_deploy import Classifier
from edgecl_deploy.cli._classify import sentence
from edgecl_deploy.enrol.deciding import suppress
from edgecl_deploy.enrol.local import Local
from edgecl_deploy.errors import DeployError, EngineError, OptionError
from edgecl_deploy.format import OwnScores, digest, parse_pack, parse_release, write_tensors
from edgecl_deploy.store.settings import configured
from edgecl_deploy.unknown.rule import Reference
from edgecl_deploy.unknown.table import Table

KNOWN = [*shades(COLOURS["red"], 60, seed=7), *shades(COLOURS["green"], 60, seed=8)]
STRANGE = [*shades(YELLOW, 20, seed=9), *shades(COLOURS["blue"], 20, seed=9)]
FIELDS = ("known", "p", "set", "set_size", "basis")


@pytest.fixture
def toy(world: World) -> World:
    return cosine_world(world)


def opened(world: World, made: object, **options: object) -> Classifier:
    return Classifier.open(world.bundle_path, made.write(world.fresh()), threads=1, **options)


def test_an_answer_has_the_p_value_and_the_set_of_the_rule(toy: World) -> None:
    classifier = opened(toy, scored_release(toy, 1, "red", "green"))
    answers = classifier.predict([*KNOWN, *STRANGE])
    parts = classifier.loaded.reference.parts
    feature = colours_of([*KNOWN, *STRANGE]).astype(np.float32)
    judged = Reference.of(("red", "green"), parts).judge(feature, 0.05)
    for i, answer in enumerate(answers):
        at = classifier.classes.index(answer.label)
        assert answer.p == judged.p[i, at]
        assert set(answer.set) == {("red", "green")[k] for k in np.flatnonzero(judged.inside[i])}
        assert (answer.known, answer.set_size) == (bool(answer.set), len(answer.set))
        assert (answer.basis, answer.typical) == ("class", judged.p[i].max())
    covered = ["red" in each.set for each in answers[:60]]
    covered += ["green" in each.set for each in answers[60:120]]
    assert np.mean(covered) >= 0.95 - 0.06  # 120 draws, and two calibrations of 40
    assert not any(each.known for each in answers[120:])
    assert {each.label for each in answers[120:]} <= {"red", "green"}  # the best guess stays


def test_alpha_is_of_the_call_the_classifier_the_release_or_usual(toy: World) -> None:
    made = scored_release(toy, 1, "red", "green", alpha=0.4)

    def share(classifier: Classifier, **options: float) -> float:
        return float(np.mean([not each.known for each in classifier.predict(KNOWN, **options)]))

    classifier = opened(toy, made)
    assert 0.2 < share(classifier) < 0.6
    assert share(classifier, alpha=0.05) < 0.12
    assert share(opened(toy, made, alpha=0.05)) < 0.12
    assert share(opened(toy, scored_release(toy, 1, "red", "green"))) < 0.12
    store = make_store(toy, toy.root / "store", made, disk=Quick())
    with store.lock():
        store.configure(configured(store.config, {"unknown_alpha": 0.05}))
    with Classifier.open(store.path, threads=1) as following:
        assert share(following) < 0.12
    for call in (
        lambda: classifier.predict(KNOWN, alpha=0.9),
        lambda: opened(toy, made, alpha=0.0),
        lambda: configured(store.config, {"unknown_alpha": 2}),
    ):
        with pytest.raises(OptionError):
            call()


def test_a_threshold_of_a_release_decides_as_before(toy: World) -> None:
    packs = scored_packs(toy, "red", "green")
    classifier = opened(toy, toy.made(*packs, unknown_below=-2.0))
    (answer,) = classifier.predict(STRANGE[:1])
    assert (answer.known, answer.set, answer.set_size) == (True, (), 0)


def test_packs_without_scores_leave_it_open(toy: World) -> None:
    with_them, (plain, blobs) = scored_packs(toy, "red", "green")
    without = (replace(plain, unknown=None), blobs)
    classifier = opened(toy, toy.made(with_them, without))
    (answer,) = classifier.predict(STRANGE[:1])
    assert [getattr(answer, name) for name in FIELDS] == [None, None, (), None, None]


def test_json_and_the_line_show_it_but_not_what_is_for_the_watcher(toy: World) -> None:
    classifier = opened(toy, scored_release(toy, 1, "red", "green"))
    known, strange = classifier.predict([picture("red"), STRANGE[-1]])
    shown = json.loads(json.dumps(known.to_json()))
    assert set(FIELDS) <= shown.keys()
    assert "typical" not in shown
    assert shown["set"] == ["red"]
    assert sentence(strange).startswith(f"{strange.label}  unknown (p 0.024)")
    assert "unknown" not in sentence(known)


def test_more_tasks_leave_what_is_said_of_the_classes_before(toy: World) -> None:
    few = opened(toy, scored_release(toy, 1, "red", "green"))
    many = opened(toy, scored_release(toy, 2, "red", "green", "blue"))
    feature = colours_of([*KNOWN, *STRANGE]).astype(np.float32)
    before, after = few.loaded.judged(feature), many.loaded.judged(feature)
    assert np.array_equal(before.p, after.p[:, :2])
    assert [each.known for each in many.predict(STRANGE[20:])].count(True) >= 17  # it is blue now


@pytest.mark.parametrize("kind", ["mean", "ridge"])
def test_classes_of_the_device_have_p_values_from_their_pictures(world: World, kind: str) -> None:
    made = (
        scored_release(cosine_world(world), 1, "red", "green")
        if kind == "mean"
        else scored_ridge(ridge_world(world), "red", "green")
    )
    path = made.write(world.fresh())
    with Classifier.open(
        world.bundle_path, path, threads=1, local=world.root / "local"
    ) as classifier:
        feature = colours_of([*KNOWN, *STRANGE]).astype(np.float32)
        before = classifier.loaded.judged(feature)
        lemons = shades(YELLOW, 25, seed=3)
        assert not any(each.known for each in classifier.predict(STRANGE[:20]))
        classifier.enrol("lemon", lemons, force=True)
        after = classifier.loaded.judged(feature)
        assert np.array_equal(before.p, after.p[:, :2])
        answers = classifier.predict(STRANGE[:20])
        assert [each.set for each in answers].count(("lemon",)) >= 16
        assert {each.basis for each in answers if each.label == "lemon"} == {"class"}
        classifier.unenrol("lemon")
        classifier.enrol("lime", lemons[:3], force=True)
        few = classifier.loaded.judged(feature)
        assert few.pooled.all(axis=0).tolist() == [False, False, True]
        assert np.array_equal(before.p, few.p[:, :2])


def test_a_hidden_class_is_in_no_set(toy: World) -> None:
    path = scored_release(toy, 1, "red", "green").write(toy.fresh())
    with Classifier.open(toy.bundle_path, path, threads=1, local=toy.root / "local") as classifier:
        classifier.enrol("lemon", shades(YELLOW, 25, seed=3))
        suppress(Local(toy.root / "local"), "red", classifier.classes)
        classifier.look()
        (answer,) = classifier.predict([picture("red")])
        assert "red" not in answer.set
        assert answer.label != "red"


def test_a_pack_is_read_as_it_was_written_and_scores_of_later_days_count_as_absent(
    toy: World,
) -> None:
    (pack, _), *_ = scored_packs(toy, "red")
    assert parse_pack(pack.to_bytes()) == pack
    later = replace(pack, unknown=replace(pack.unknown, score="own-cosine/2"))
    again = parse_pack(later.to_bytes())
    assert again.unknown is None
    assert again.extra["unknown"]["score"] == "own-cosine/2"
    assert again.to_bytes() == later.to_bytes()
    release = scored_release(toy, 1, "red", alpha=0.1).release
    assert parse_release(release.to_bytes()) == release


def table_of(**changes: np.ndarray) -> bytes:
    good = Table.of([np.linspace(0.5, 0.9, 30)]).to_tensors()
    return write_tensors({**good, **changes})


@pytest.mark.parametrize(
    ("unknown", "data"),
    [
        ({"tensor": "keys"}, {}),  # no tensor of this program
        ({"tensor": None}, {}),  # no mean either
        ({"tensor": None}, {"mean": np.zeros((1, 2), np.float16)}),
        ({"columns": (0, 2)}, {}),  # rows of three numbers
        ({}, {"count": np.array([31], np.int32)}),
        ({"blob": "0" * 64}, {}),
    ],
)
def test_scores_that_do_not_fit_are_refused(
    toy: World, unknown: dict[str, object], data: dict[str, np.ndarray]
) -> None:
    (pack, blobs), *_ = scored_packs(toy, "red")
    blob = table_of(**data)
    own = replace(OwnScores((0, 3), "prototypes", digest(blob)), **unknown)
    pack = replace(pack, unknown=own, blobs={**pack.blobs, digest(blob): len(blob)})
    made = toy.made((pack, {**blobs, digest(blob): blob}))
    with pytest.raises(DeployError):
        opened(toy, made)


def test_a_feature_that_is_too_short_is_an_error_of_the_release(toy: World) -> None:
    made = scored_release(toy, 1, "red", "green")
    classifier = opened(toy, made)
    short = replace(classifier.loaded.reference, _columns=(1, 4))
    loaded = replace(classifier.loaded, reference=short)
    with pytest.raises(EngineError, match="from one run"):
        loaded.self_test()


def test_the_server_gives_what_the_release_has(toy: World) -> None:
    with serving(opened(toy, scored_release(toy, 1, "red", "green"))) as server:
        images = np.stack([picture("red"), STRANGE[-1]])
        found = server.pixels(images)
        assert found.output("known") == [True, False]
        assert found.output("set") == ["red", ""]
        assert found.output("p")[1] == pytest.approx(1 / 41)
        more = server.pixels(images, [{"name": "set_size"}, {"name": "basis"}])
        assert (more.output("set_size"), more.output("basis")) == ([1, 0], ["class", "class"])
        names = {each["name"] for each in server.get("/v2/models/edgecl").json["outputs"]}
        assert {"known", "p", "set", "set_size", "basis"} <= names
    plain = scored_packs(toy, "red")[0]
    without = toy.made((replace(plain[0], unknown=None), plain[1]), unknown_below=0.5)
    with serving(opened(toy, without)) as server:
        refused = server.pixels(np.stack([picture("red")]), [{"name": "p"}])
        assert (refused.status, "with the scores of its images" in refused.error) == (400, True)


@pytest.mark.parametrize(("rejected", "told"), [(0, True), (1, True), (2, False), (None, False)])
def test_a_precision_tells_unknown_images_where_that_was_measured(
    toy: World, rejected: int | None, told: bool
) -> None:
    add_variant(toy)
    licence = replace(LICENCE, rejected=rejected)  # of 100 images
    path = licensed(scored_release(toy, 1, "red", "green"), licence).write(toy.fresh())
    images = [picture("red"), picture("white")]
    with Classifier.open(toy.bundle_path, path, precision="int8", threads=1) as classifier:
        assert (classifier.precision, classifier.fallback) == ("int8", "")
        found = classifier.predict(images, alpha=0.1)
    assert [each.label for each in found] == ["red", "red"]
    assert [each.known for each in found] == ([True, False] if told else [None, None])
    assert [each.p is None for each in found] == [not told] * 2
    with Classifier.open(toy.bundle_path, path, threads=1) as floats:
        assert [each.known for each in floats.predict(images)] == [True, False]

"""`edgecl-device enrol` and `enrolled`, on a store and on a bundle with a release."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tests.deploy.support.enrolling import CYAN, release, shades
from tests.deploy.support.following import take
from tests.deploy.support.sources import MemorySource
from tests.deploy.support.world import World

from edgecl_deploy.cli import device
from edgecl_deploy.cli._shared import ATTENTION
from edgecl_deploy.store.store import Store

VIEWS = ((1.0, 0.6, 0.0), (0.6, 1.0, 0.0), (0.9, 0.9, 0.45), (0.8, 0.8, 0.1))  # no two alike


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "lemons"
    folder.mkdir()
    for number, colour in enumerate(VIEWS):
        Image.fromarray(shades(colour, 1)[0]).save(folder / f"{number}.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(device, [str(each) for each in arguments])


def ok(*arguments: object) -> object:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_class_is_enrolled_listed_and_removed(store: Store, pictures: Path) -> None:
    found = ok("enrol", store.path, "lemon", pictures, "--note", "from the market")
    assert (found["name"], found["images"], found["local"]) == ("lemon", 4, 1)
    assert found["loo"] == [True] * 4
    (one,) = ok("enrolled", "list", store.path)["enrolled"]
    assert (one["name"], one["state"], one["images"]) == ("lemon", "active", 4)
    assert ok("enrolled", "show", store.path, "lemon")[0]["note"] == "from the market"
    assert ok("status", store.path)["local"] == {"lemon": "active"}
    image = pictures / "0.png"
    answer = run("classify", store.path, image)
    assert "lemon" in answer.stdout
    assert "release 1.1" in answer.stdout
    assert json.loads(run("classify", store.path, image, "--json").stdout)["source"] == "local"
    assert ok("enrolled", "remove", store.path, "lemon", "--purge")["generation"] == 2
    assert ok("enrolled", "list", store.path) == {"generation": 2, "enrolled": [], "hidden": []}
    assert run("enrolled", "list", store.path).stdout == "This device has no classes of its own.\n"


def test_classes_whose_current_is_lost_answer_and_somebody_is_told(
    store: Store, pictures: Path
) -> None:
    ok("enrol", store.path, "lemon", pictures)
    (store.path / "local" / "current").unlink()
    assert "lemon" in run("classify", store.path, pictures / "0.png").stdout
    found = json.loads(run("status", store.path, "--json").stdout)
    assert found["local"] == {"lemon": "active"}
    assert "generation 1 counts" in " ".join(found["attention"])
    assert "local/current" in run("fsck", store.path).stdout


def test_people_read_what_came_of_each_image(store: Store, pictures: Path) -> None:
    (pictures / "0.png").write_bytes(b"no image")
    result = run("enrol", store.path, "lemon", pictures)
    assert result.exit_code == ATTENTION
    lines = result.stdout.splitlines()
    assert lines[0] == "lemon: 3 images; local generation 1"
    assert "0.png: skipped: " in lines[1]
    assert lines[2].endswith("1.png: recognised by the others")
    assert lines[-1] == "warning: 1 images could not be read"
    assert "nothing was written" in run("enrol", store.path, "x", pictures, "--dry-run").stdout
    assert "lemon  3 images  active" in run("enrolled", "list", store.path).stdout
    assert "from" not in run("enrolled", "show", store.path, "lemon").stdout


def test_a_name_that_the_publisher_took_is_resolved(
    toy: World, store: Store, source: MemorySource, pictures: Path
) -> None:
    ok("enrol", store.path, "lemon", pictures)
    take(store, source, release(toy, 2, lemon=CYAN))
    result = run("status", store.path, "--json")
    assert result.exit_code == ATTENTION
    assert "the class lemon is superseded" in " ".join(json.loads(result.stdout)["attention"])
    assert "superseded" in run("enrolled", "list", store.path).stdout
    assert run("enrolled", "resolve", store.path, "lemon").exit_code == 2
    assert ok("enrolled", "resolve", store.path, "lemon", "--keep-both")["generation"] == 2
    assert ok("enrolled", "resolve", store.path, "lemon", "--rename", "citron")["generation"] == 3
    assert ok("enrolled", "list", store.path)["enrolled"][0]["name"] == "citron"
    assert "dropped" in run("enrolled", "resolve", store.path, "citron", "--drop").stdout


def test_a_published_class_is_hidden_and_shown(store: Store) -> None:
    assert "hidden, not erased" in run("enrolled", "suppress", store.path, "red").stdout
    assert "red  hidden, not erased" in run("enrolled", "list", store.path).stdout
    assert ok("enrolled", "suppress", store.path, "red", "--off")["generation"] == 2


def test_a_bundle_and_a_release_need_a_folder(toy: World, pictures: Path) -> None:
    path = release(toy, 1).write(toy.fresh())
    where = (toy.bundle_path, path)
    assert "--local DIR" in run("enrol", *where, "lemon", pictures).stderr
    folder = ("--local", toy.root / "mine")
    assert ok("enrol", *where, "lemon", pictures, *folder)["local"] == 1
    assert ok("enrolled", "list", *where, *folder)["enrolled"][0]["name"] == "lemon"


def test_wrong_command_lines_and_wrong_classes_say_what_to_do(
    toy: World, store: Store, pictures: Path
) -> None:
    assert run("enrol", store.path, "lemon").exit_code == 2
    assert run("enrolled", "show", store.path, "pear").exit_code == 2
    assert run("enrolled", "show", store.path).exit_code == 2
    assert run("enrolled", "list", store.path, "pear").exit_code == 2
    assert run("enrolled", "remove", store.path, "pear").exit_code == 2
    taken = run("enrol", store.path, "Red", pictures)
    assert (taken.exit_code, "'red' and 'Red'" in taken.stderr) == (1, True)
    plain = replace(toy.bundle.programs["plain"], enrol=None)
    bundle = replace(toy.bundle, programs={**toy.bundle.programs, "plain": plain})
    (toy.bundle_path / "bundle.json").write_bytes(bundle.to_bytes())
    assert ok("config", store.path, f"bundle={toy.bundle_path}")
    refused = run("enrol", store.path, "lemon", pictures)
    assert (refused.exit_code, "such as simplecil" in refused.stderr) == (1, True)


def test_a_damaged_class_is_found_by_fsck_and_status(store: Store, pictures: Path) -> None:
    ok("enrol", store.path, "lemon", pictures)
    for path in (store.path / "local" / "objects").iterdir():
        path.chmod(0o600)
        path.write_bytes(b"x" * path.stat().st_size)
    for repair in ((), ("--repair",)):
        result = run("fsck", store.path, *repair)
        assert (result.exit_code, "local/lemon" in result.stdout) == (ATTENTION, True)
    assert "lemon is suspended" in run("status", store.path).stdout
    assert run("enrolled", "remove", store.path, "lemon").exit_code == 0
    assert run("fsck", store.path).exit_code == 0

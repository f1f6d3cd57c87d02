"""Classes that are given to a device over HTTP: who may, what is refused, and what then answers."""

import base64
import gc
import json
import random
from io import BytesIO

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.deploy.support.asking import png, serving
from tests.deploy.support.enrolling import YELLOW, cosine_world, release, shades
from tests.deploy.support.following import until
from tests.deploy.support.sources import Quick, make_store
from tests.deploy.support.world import make_world

from edgecl_deploy import Classifier
from edgecl_deploy.errors import StoreError
from edgecl_deploy.server import limits
from edgecl_deploy.server.guard import Guard, Rights, Tokens
from edgecl_deploy.store.layout import LOCAL, OBJECTS

OWN = "/edgecl/v1/enrolled"
READ, ENROL, ADMIN = "r" * 32, "e" * 32, "a" * 32
TOKENS = Tokens((
    (READ.encode(), Rights.READ),
    (ENROL.encode(), Rights.ENROL),
    (ADMIN.encode(), Rights.ADMIN),
))
JSON = {"Content_Type": "application/json"}
GROWTH = 50e6  # bytes


def encoded(image):
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


LEMONS = [encoded(each) for each in shades(YELLOW, 5)]
RUBIES = [encoded(each) for each in shades((1.0, 0.0, 0.0), 4)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    toy = cosine_world(make_world(tmp_path_factory.mktemp("world")))
    store = make_store(toy, toy.root / "store", release(toy, 1, tilt=0.2), disk=Quick())
    with Classifier.open(store.path, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(classifier):
    with serving(classifier, Guard(anyone=Rights.ENROL)) as asked:
        yield asked


@pytest.fixture(autouse=True)
def none_left(classifier):
    yield
    for each in classifier.enrolled:
        classifier.unenrol(each.name)


def show(server, name="lemon", images=LEMONS, headers=JSON, **fields):
    return server.post(OWN, {"name": name, "images": images, **fields}, **headers)


def names(server, **headers):
    return [each["name"] for each in server.get(OWN, **headers).json["enrolled"]]


def test_a_class_comes_answers_and_goes(server):
    assert server.get("/edgecl/v1/status").json["enrolment"] == "mean"
    tried = show(server, dry_run=True).json
    assert (tried["local"], tried["images"], tried["loo"]) == (0, 5, [True] * 5)
    assert names(server) == []
    found = show(server, note="line 7", images=[*LEMONS, base64.b64encode(b"no image").decode()])
    assert found.status == 200
    assert (found.json["images"], found.json["skipped"][0][0]) == (5, 5)
    assert found.json["version"].startswith("1.")
    (one,) = server.get(OWN).json["enrolled"]
    assert (one["name"], one["state"], one["images"], one["by"]) == (
        "lemon", "active", 5, "over HTTP",
    )  # fmt: skip
    assert one["note"] == "line 7"
    assert b'edgecl_local_classes{state="active"} 1.0' in server.get("/metrics").body
    assert server.image(base64.b64decode(LEMONS[0])).output("label")[0] == "lemon"
    gone = server.ask("DELETE", f"{OWN}/lemon?purge=true")
    assert (gone.status, gone.json["name"], gone.json["version"]) == (200, "lemon", "1")
    assert server.image(base64.b64decode(LEMONS[0])).output("label")[0] != "lemon"


def test_a_class_that_was_removed_before_can_still_be_purged(server, classifier):
    def kept():
        objects = classifier.store.path / LOCAL / OBJECTS
        return sum(path.stat().st_size for path in objects.iterdir())

    assert show(server, "first").status == 200
    assert server.ask("DELETE", f"{OWN}/first?purge=true").status == 200
    before = kept()
    assert show(server).status == 200
    assert server.ask("DELETE", f"{OWN}/lemon").status == 200
    assert kept() > before
    assert server.ask("DELETE", f"{OWN}/lemon").status == 404
    assert server.ask("DELETE", f"{OWN}/lemon?purge=true").status == 200
    assert kept() == before
    again = server.ask("DELETE", f"{OWN}/lemon?purge=true")
    assert (again.status, "lists them" in again.error) == (404, True)


def test_a_name_is_that_of_one_class(server):
    for name in ("a/b", "a/", "ä b"):
        assert show(server, name).status == 200
    assert server.ask("DELETE", f"{OWN}/a").status == 404
    for name in ("a%2Fb", "a%2F", "%C3%A4%20b"):
        assert server.ask("DELETE", f"{OWN}/{name}").status == 200
    assert names(server) == []


def test_who_may_change_the_classes(classifier):
    with serving(classifier, Guard()) as server:
        found = show(server)
        assert (found.status, "--page" in found.error) == (403, True)
        assert server.get("/edgecl/v1/status").json["rights"] == "read"
    with serving(classifier, Guard(TOKENS, anyone=Rights.ENROL)) as server:
        assert [show(server).status, server.get(OWN).status] == [401, 401]
        for token, status in ((READ, 403), (ENROL, 200), (ADMIN, 200)):
            own = {"Authorization": f"Bearer {token}"}
            assert show(server, headers={**JSON, **own}).status == status
            assert len(names(server, **own)) == (status == 200)
            assert server.ask("DELETE", f"{OWN}/lemon", **own).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Host": "LOCALHOST:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "localhost", "Origin": "https://localhost"}, 200),
    ],
)
def test_a_page_of_another_site_changes_nothing(server, headers, status):
    assert show(server, headers={**JSON, **headers}).status == status
    assert len(names(server)) == (status == 200)
    if status == 403:
        assert server.ask("DELETE", f"{OWN}/lemon", **headers).status == 403
        assert server.image(png("red"), **headers).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_of_another_site_only_a_link_leads_here(server, site):
    def status(path="/v2", **headers):
        return server.get(path, Sec_Fetch_Site=site, **headers).status

    assert status(Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document") == 200
    assert status("/v2/health/live", Sec_Fetch_Mode="no-cors") == 200
    assert status() == status(Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image") == 403
    assert status(Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe") == 403
    assert status("/edgecl/v1/events", Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="empty") == 403
    assert server.get("/v2", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors").status == 200


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"images": LEMONS * 5}, 400, "at most 20 entries"),
        ({"images": []}, 400, "needs an image that can be read"),
        ({"images": ["bm8gaW1hZ2U="]}, 400, "needs an image that can be read"),
        ({"images": ["%"]}, 400, "a text in base64"),
        ({"images": [1]}, 400, "a text in base64"),
        ({"images": LEMONS[0]}, 400, "a list"),
        ({"name": " "}, 400, "visible characters"),
        ({"name": ""}, 400, "printable text"),
        ({"note": "a\nb"}, 400, "printable text"),
        ({"dryrun": True}, 400, "no field but name, images"),
        ({"force": 1}, 400, "true or false"),
        ({"name": "Red"}, 409, "a name of its own"),
        ({"name": "ruby", "images": RUBIES}, 409, "1 images of the self-test"),
    ],
)
def test_what_is_no_class_is_refused_in_words(server, fields, status, says):
    found = show(server, **fields)
    assert (found.status, says in found.error) == (status, True), found.error
    assert names(server) == []


def test_where_there_is_no_place_for_classes(world):
    opened = Classifier.open(world.bundle_path, world.release("red"), threads=1)
    with serving(opened, Guard(anyone=Rights.ENROL)) as server:
        assert server.get("/edgecl/v1/status").json["enrolment"] is None
        found = show(server)
        assert (found.status, "--local DIR" in found.error) == (422, True)
        assert server.ask("DELETE", f"{OWN}/lemon").status == 404
        assert server.ask("DELETE", f"{OWN}/lemon?purge=true").status == 404
        assert server.ask("DELETE", f"{OWN}/lemon?purge=yes").status == 400


def test_a_program_that_cannot_take_a_class(world, tmp_path):
    release = world.release("red")
    with (
        Classifier.open(world.bundle_path, release, local=tmp_path / "local") as opened,
        serving(opened, Guard(anyone=Rights.ENROL)) as server,
    ):
        found = show(server)
        assert (found.status, "take a class from images" in found.error) == (422, True)


def test_they_come_one_at_a_time_and_few_wait(server):
    room = server.service.enrolments
    room.take(limits.MAX_ENROLMENTS)
    found = show(server)
    room.give(limits.MAX_ENROLMENTS)
    assert (found.status, found.headers["Retry-After"]) == (503, "1")
    assert show(server).status == 200
    assert until(lambda: room.used == 0)


def test_a_disk_that_fails_is_told_without_its_path(server, classifier, monkeypatch):
    def fails(*_, **__):
        raise StoreError("this user must be allowed to write in /var/lib/x", "no", "chmod")

    monkeypatch.setattr(classifier, "enrol", fails)
    found = show(server)
    assert (found.status, "/var" in found.error) == (500, False)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.sampled_from(["name", "images", "note", "keep_images", "force", "dry_run", "more"]),
        _VALUES,
    )
    | st.binary(max_size=40)
)
def test_bodies_of_any_kind(server, fields):
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    found = server.post(OWN, body, **JSON)
    assert 400 <= found.status < 500
    assert found.error


@pytest.mark.slow
def test_thousands_of_bodies_leave_nothing(server):
    rng = random.Random(0)  # noqa: S311  bytes to order
    process = psutil.Process()
    whole = json.dumps({"name": "lemon", "images": LEMONS, "dry_run": True}).encode()

    def some(count):
        for _ in range(count):
            body = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                body[rng.randrange(len(body))] = rng.randrange(256)
            assert server.post(OWN, bytes(body), **JSON).status < 500
        gc.collect()
        return process.memory_info().rss

    before = some(300)
    assert some(3000) - before < GROWTH

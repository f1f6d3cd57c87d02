"""The page of a server: its files, and what a real browser with a camera does on it."""

import re
from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder
from tests.deploy.support.asking import png, serving
from tests.deploy.support.browsing import FAR, browsing, film
from tests.deploy.support.enrolling import YELLOW, cosine_world
from tests.deploy.support.fault_server import serving as publishing
from tests.deploy.support.fleet import Fleet
from tests.deploy.support.following import until
from tests.deploy.support.scored import scored_release

import edgecl_deploy
from edgecl_deploy import Classifier
from edgecl_deploy.server.guard import Guard, Rights, Tokens
from edgecl_deploy.server.page import FILES, HEADERS, read_page

ROOT = Path(edgecl_deploy.__file__).parent
PAGE = read_page()
TOKEN = "t" * 32
LARGEST = 40_000  # bytes of all files
LONG = 20  # seconds that a browser may take on a busy machine


# -- its files ------------------------------------------------------------------------------------


def test_it_is_small_whole_and_asks_nobody_else():
    assert sum(len(data) for data, _ in PAGE.values()) < LARGEST
    for name, (data, _) in PAGE.items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$|\s// .*$", "", text, flags=re.MULTILINE), name
        for used in re.findall(r"(?:src|href)=\"([^\"#]+)\"|from \"\./([^\"]+)\"", text):
            assert "".join(used).removeprefix("page/") in FILES
    start = PAGE["index.html"][0].decode()
    assert not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=|<style", start)
    assert not re.search(r"innerHTML|eval\(|document\.write", PAGE["page.js"][0].decode())


def test_the_wheel_carries_it():
    builder = WheelBuilder(str(ROOT.parent))
    carried = {each.distribution_path for each in builder.recurse_included_files()}
    assert {f"edgecl_deploy/server/page/{name}" for name in FILES} <= carried


def test_it_is_there_only_where_it_is_asked_for(classifier):
    with serving(classifier) as server:
        assert server.get("/").status == server.get("/page/page.js").status == 404


def test_it_needs_no_token_and_what_it_does_needs_one(classifier):
    tokens = Tokens(((TOKEN.encode(), Rights.ENROL),))
    with serving(classifier, Guard(tokens), page=PAGE) as server:
        found = server.get("/")
        assert (found.status, found.body) == (200, PAGE["index.html"][0])
        for name, (data, kind) in PAGE.items():
            found = server.get(f"/page/{name}")
            assert (found.body, found.headers["content-type"]) == (data, kind)
            assert {key: found.headers[key] for key in HEADERS} == dict(HEADERS)
        assert server.get("/page/none").status == 401
        assert server.get("/edgecl/v1/status").status == 401
        assert server.get("/", Host="evil.example").status == 421


# -- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def fleet(world, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with publishing(tmp_path) as site:
        made = Fleet(cosine_world(world), site)
        made.init()
        made.publish(1, scored_release(world, 1, "red", "green"))
        assert made.update().exit_code == 0
        yield made


class Seen:
    """What a person sees on the page, and does by keyboard."""

    def __init__(self, driver):
        self.driver = driver

    def at(self, name):
        return self.driver.find_element("id", name)

    def text(self, name):
        return self.at(name).text

    def sees(self, name, text):
        """Wait until a text is there."""
        assert until(lambda: text in self.text(name), LONG), (name, text, self.text(name))

    def type(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def errors(self):
        return [each["message"] for each in self.driver.get_log("browser")]


def test_an_object_is_unknown_is_taught_and_known_while_a_release_arrives(fleet, tmp_path):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    lights = np.linspace(0.8, 1, 5)[:, None, None, None] * np.ones((1, 48, 64, 1))
    pictures = (255 * lights * YELLOW).astype(np.uint8)
    checks = Guard(hosts=frozenset({"localhost", FAR}), anyone=Rights.ENROL)
    with (
        browsing(film(tmp_path / "lemon.y4m", pictures)) as driver,
        Classifier.open(fleet.path, threads=1) as classifier,
        serving(classifier, checks, page=PAGE) as server,
    ):
        seen, port = Seen(driver), server.address[1]
        driver.get(f"http://127.0.0.1:{port}/")
        seen.sees("release", "release 1")
        seen.type(keys.TAB)
        assert driver.switch_to.active_element == seen.at("camera")
        seen.type(keys.ENTER)
        seen.sees("label", "Unknown")
        seen.sees("sense", "closest is red · p 0.0")
        seen.sees("said", "Unknown")

        seen.at("name").send_keys("lemon", keys.ENTER)
        seen.sees("taught", "Picture 2 of 5")
        fleet.publish(2, scored_release(fleet.world, 2, "red", "green", "blue"))
        assert fleet.update().exit_code == 0
        seen.sees("taught", "lemon is learned from 5 pictures")
        assert len(driver.find_elements("css selector", "#shots small")) == 5
        seen.sees("label", "lemon")
        seen.sees("badge", "of this device")
        seen.sees("sense", "judged with few pictures of it")
        seen.sees("release", "release 2.1")
        seen.sees("toast", "Release 2 answers now")
        assert seen.at("answer").get_attribute("data-state") == "known"
        assert "lemon" in seen.text("own")
        assert [each.name for each in classifier.enrolled] == ["lemon"]

        remove = seen.at("own").find_element("tag name", "button")
        assert remove.get_attribute("aria-label") == "Remove lemon"
        remove.send_keys(keys.ENTER)
        assert remove.text == "Really?"
        remove.send_keys(keys.ENTER)
        seen.sees("label", "Unknown")
        seen.sees("own-none", "None yet")
        assert classifier.enrolled == ()
        fits_a_phone(driver)
        assert seen.errors() == []

        from_afar(seen, port, tmp_path)
        a_form_of_another_site(driver, port)
        assert classifier.enrolled == ()
    assert server.service.metrics.statistics()["inference_stats"]["fail"]["count"] <= 1


def fits_a_phone(driver):
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    small = driver.execute_script("""
        const buttons = [...document.querySelectorAll("button, .button")];
        const small = (each) => each.offsetParent && each.getBoundingClientRect().height < 36;
        return buttons.filter(small).map((each) => each.textContent);
    """)
    assert small == []
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def from_afar(seen, port, folder):
    """A page that came over http from another machine has no camera, but files."""
    seen.driver.get(f"http://{FAR}:{port}/")
    seen.sees("idle", "only to a page that came by https")
    assert not seen.at("camera").is_displayed()
    (folder / "green.png").write_bytes(png("green"))
    seen.at("file").send_keys(str(folder / "green.png"))
    seen.sees("label", "green")


def a_form_of_another_site(driver, port):
    """What a page of another site sends by a form, with JSON as its text, is refused."""
    action, text = f"http://127.0.0.1:{port}/edgecl/v1/enrolled", '{"name": "x", "images": []}'
    driver.get("data:text/html,<form method=post enctype=text/plain><input></form>")
    driver.execute_script(
        "const [form] = document.forms; form.action = arguments[0];"
        "form.elements[0].name = arguments[1]; form.submit()",
        action,
        text,
    )
    assert until(lambda: "one of another site" in driver.page_source, LONG)

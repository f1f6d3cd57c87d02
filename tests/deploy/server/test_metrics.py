"""What a server shows of itself: metrics, events, status."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy.support.asking import INFER, png, serving
from tests.deploy.support.following import until
from tests.deploy.support.sources import Quick, make_release, make_store
from tests.deploy.support.world import picture

from edgecl_deploy import Classifier
from edgecl_deploy.loaded import Prediction
from edgecl_deploy.server.limits import MAX_LABELS, MAX_LISTENERS
from edgecl_deploy.server.metrics import Metrics

MOST_SERIES = 2000
COMPOSE = Path(__file__).parents[3] / "deploy" / "compose"


def samples(text):
    return {
        (each.name, *sorted(each.labels.items())): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def test_a_scrape_says_what_happened(fresh):
    fresh.pixels([picture("red")] * 3)
    fresh.image(png("blue"))
    fresh.image(b"no image")
    fresh.post(INFER, b"{")
    fresh.get("/none")
    reply = fresh.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(reply.body.decode())
    assert found["edgecl_images_total", ("outcome", "known")] == 4
    assert found["edgecl_images_total", ("outcome", "refused")] == 1
    assert found["edgecl_predictions_total", ("label", "red")] == 3
    assert found["edgecl_rejected_total", ("reason", "malformed")] == 2
    assert found["edgecl_rejected_total", ("reason", "unknown")] == 1
    assert found["edgecl_request_seconds_count",] == 4
    assert found["edgecl_batch_images_bucket", ("le", "1.0")] == 1
    assert found["edgecl_batch_images_sum",] == 4
    assert found["edgecl_queue_images",] == 0
    assert found["edgecl_classes",] == 3
    for stage in ("prepare", "wait", "run", "answer"):
        assert found["edgecl_stage_seconds_count", ("stage", stage)] >= 2
    (info,) = (dict(key[1:]) for key in found if key[0] == "edgecl_release_info")
    assert (info["release"], info["program"], info["precision"]) == ("1", "plain", "float32")
    assert ("process_resident_memory_bytes",) in found
    assert len(found) < 200


def test_the_dashboard_asks_for_what_there_is(fresh):
    fresh.pixels([picture("red")])
    board = json.loads((COMPOSE / "grafana" / "edgecl.json").read_text())
    source = yaml.safe_load((COMPOSE / "grafana" / "datasource.yml").read_text())["datasources"][0]
    asks = [each["expr"] for panel in board["panels"] for each in panel["targets"]]
    asks += [each["expr"] for each in board["annotations"]["list"]]
    asks += [each["definition"] for each in board["templating"]["list"]]
    wanted = {name for each in asks for name in re.findall(r"\b(?:edgecl|process)_\w+", each)}
    has = {name for name, *_ in samples(fresh.get("/metrics").body.decode())}
    assert wanted <= has, wanted - has
    assert len(wanted) > 10
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["description"]


def test_names_are_those_of_the_practices(fresh):
    for family in text_string_to_metric_families(fresh.get("/metrics").body.decode()):
        if not family.name.startswith("edgecl_"):
            continue
        assert family.documentation.endswith(".")
        assert not family.name.endswith(("_ms", "_milliseconds", "_count", "_total"))
        if family.type == "counter":
            assert all(each.name.endswith(("_total", "_created")) for each in family.samples)


def test_series_are_bounded_whatever_the_classes(classifier):
    names = tuple(f"class {i}" for i in range(5000))
    loaded = replace(classifier.loaded, labels=replace(classifier.loaded.labels, names=names))
    metrics = Metrics(lambda: loaded, lambda: 0)
    for name in names:
        answer = Prediction(name, 1.0, ((name, 1.0),), [], [], 1, known=None)
        metrics.answered([answer, answer], refused=0)
    found = samples(metrics.text().decode())
    assert len(found) <= MOST_SERIES
    labels = {key[1][1]: value for key, value in found.items() if key[0].startswith("edgecl_pred")}
    assert len([each for each in labels if each.startswith("class")]) == MAX_LABELS
    assert labels["other"] >= 2 * (5000 - MAX_LABELS)


def test_a_class_that_is_not_answered_any_more_is_in_no_scrape(world, fresh):
    fresh.pixels([picture("red"), picture("blue")])
    assert b'{label="blue"}' in fresh.get("/metrics").body
    fresh.service.classifier.swap(world.release("red", "green", number=2))
    late = Prediction("blue", 1.0, (("blue", 1.0),), [], [], 1, known=None)
    for _ in range(2):
        text = fresh.get("/metrics").body
        assert b"blue" not in text
        assert b'edgecl_predictions_total{label="red"} 1.0' in text
        fresh.service.metrics.answered([late], refused=0)


def test_a_scrape_has_the_floor_of_what_is_erased(world, fresh, monkeypatch):
    def unreadable(_):
        raise OSError(5, "Input/output error")

    assert b"edgecl_forgotten_floor" not in fresh.get("/metrics").body
    store = make_store(world, world.root / "store", make_release(world, 3), disk=Quick())
    with Classifier.open(store.path, threads=1) as classifier, serving(classifier) as server:
        assert b"edgecl_forgotten_floor 0.0" in server.get("/metrics").body
        with store.lock():
            store.raise_floor(2, purge=True)
        assert b"edgecl_forgotten_floor 2.0" in server.get("/metrics").body
        monkeypatch.setattr(type(classifier.store), "denied", property(unreadable))
        found = server.get("/metrics")
        assert (found.status, b"edgecl_forgotten_floor" in found.body) == (200, False)


def test_the_status_is_json(server):
    found = server.get("/edgecl/v1/status").json
    assert (found["release"], found["classes"], found["follows"]) == (1, 3, False)
    assert (found["in_work"], found["room"], found["draining"]) == (0, 64, False)


def listen(server, **headers):
    """Open a stream of events; return the connection and its lines."""
    link = server.connect()
    words = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in headers.items())
    link.sendall(f"GET /edgecl/v1/events HTTP/1.1\r\nHost: localhost\r\n{words}\r\n".encode())
    return link, link.makefile("r", encoding="utf-8")


def test_events_are_streamed_and_can_be_taken_up_again(classifier):
    with serving(classifier) as server:
        link, lines = listen(server)
        assert "200 OK" in lines.readline()
        assert next(line for line in lines if line.startswith(":")) == ": events of edgecl\n"
        server.service.events.add("swap", release=2, before=1)
        data = next(line for line in lines if line.startswith("data:"))
        entry = json.loads(data.removeprefix("data:"))
        assert (entry["event"], entry["release"]) == ("swap", 2)
        link.close()
        again, lines = listen(server, Last_Event_ID="of-another-process-57")
        first = next(line for line in lines if line.startswith("id:"))
        assert first.endswith("-1\n")
        assert server.service.events.resumed(first.removeprefix("id:").strip()) == 1
        assert server.service.events.resumed("") == 1
        assert until(lambda: server.service.listeners.used == 1)
        ended = []
        thread = threading.Thread(target=lambda: ended.extend(lines))
        thread.start()
        server.service.drain()
        thread.join(10)
        assert any("event: drain" in line for line in ended)
        again.close()


def test_listeners_are_bounded(fresh):
    links = [listen(fresh)[0] for _ in range(MAX_LISTENERS)]
    assert until(lambda: fresh.service.listeners.used == MAX_LISTENERS)
    assert fresh.get("/edgecl/v1/events").status == 503
    for link in links:
        link.close()
    assert until(lambda: fresh.service.listeners.used == 0)


@pytest.mark.parametrize("path", ["/metrics", "/edgecl/v1/status", "/v2", "/v2/models/stats"])
def test_looking_needs_no_body(server, path):
    assert server.get(path).status == 200

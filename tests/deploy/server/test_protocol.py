"""Open Inference Protocol v2 and Triton's extensions, over a socket."""

import base64
import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.support.asking import INFER, PIXELS, png, prefixed, serving
from tests.deploy.support.enrolling import cosine_world
from tests.deploy.support.scored import scored_release
from tests.deploy.support.world import SIDE, picture

from edgecl_deploy import Classifier, __version__
from edgecl_deploy.server.binary import HEADER

SERVE = Path(__file__).parents[3] / "docs" / "serve.md"
RAW = {HEADER.replace("-", "_"): "0"}


def files(*images, **fields):
    """A request with files in base64."""
    data = [base64.b64encode(image).decode() for image in images]
    own = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": data}
    return {"inputs": [{**own, "parameters": {"content_type": "base64"}}], **fields}


def binary(images, head=None, **fields):
    """A request with files as binary data: the body, and its header."""
    data = prefixed(*images)
    own = {"name": "image", "datatype": "BYTES", "shape": [len(images)]}
    entry = {**own, "parameters": {"binary_data_size": len(data)}, **(head or {})}
    text = json.dumps({"inputs": [entry], **fields}).encode()
    return text + data, {HEADER.replace("-", "_"): str(len(text))}


def test_the_server_and_its_health(server):
    found = server.get("/v2").json
    assert (found["name"], found["version"]) == ("edgecl", __version__)
    assert "binary_tensor_data" in found["extensions"]
    assert server.get("/v2/").json == found
    assert server.get("/v2/health/live").json == {"live": True}
    ready = server.get("/v2/health/ready")
    assert (ready.status, ready.json) == (200, {"ready": True, "live": True})
    assert ready.headers["content-type"] == "application/json"


def test_the_answer_in_the_documentation_is_the_server_s(world):
    ask = SERVE.read_text().partition("## Ask")[2].partition("```json")[2].partition("```")[0]
    told, toy = json.loads(ask), cosine_world(world)
    release = scored_release(toy, 1, "red", "green", "blue").write(toy.fresh())
    opened = Classifier.open(toy.bundle_path, release, threads=1)
    with serving(opened) as server:
        found = server.image(png("green")).json
    assert found.keys() == told.keys()
    for one, other in zip(told["outputs"], found["outputs"], strict=True):
        values = other.pop("data")
        wanted = one.pop("data")
        assert one == other
        if one["datatype"] == "FP32":
            assert wanted == pytest.approx(values, abs=1e-4)
        else:
            assert wanted == values


@pytest.mark.parametrize("model", ["edgecl", "edgecl.pixels"])
def test_a_model_is_described(server, model):
    found = server.get(f"/v2/models/{model}").json
    assert (found["name"], found["versions"], found["platform"]) == (model, ["1"], "edgecl")
    shape = [-1] if model == "edgecl" else [-1, SIDE, SIDE, 3]
    assert found["inputs"][0]["shape"] == shape
    outputs = {each["name"]: each for each in found["outputs"]}
    assert outputs["scores"] == {"name": "scores", "datatype": "FP32", "shape": [-1, 3]}
    assert "known" not in outputs  # this release has no threshold
    assert server.get(f"/v2/models/{model}/versions/1").json == found
    assert server.get(f"/v2/models/{model}/versions/1/ready").json == {"name": model, "ready": True}
    config = server.get(f"/v2/models/{model}/config").json
    assert config["input"][0]["dims"] == shape
    assert config["input"][0]["data_type"] == ("TYPE_STRING" if shape == [-1] else "TYPE_UINT8")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v2/models/other", "one of edgecl, edgecl.pixels; found 'other'"),
        ("/v2/models/edgecl/versions/2", "the one that answers, 1; found '2'"),
        ("/v2/models/edgecl/versions/2/ready", "the one that answers, 1"),
        ("/v3", "Not Found. GET /v2 describes it"),
    ],
)
def test_what_is_not_there(server, path, says):
    found = server.get(path)
    assert found.status == 404
    assert says in found.error


def test_a_wrong_method(server):
    found = server.get(INFER)
    assert (found.status, "Method Not Allowed" in found.error) == (405, True)


def test_an_image_alone_is_answered_in_json(server):
    found = server.image(png("green"))
    assert found.status == 200
    assert found.headers["X-Edgecl-Release"] == found.json["model_version"] == "1"
    assert found.output("label") == ["green", "red", "blue"]
    assert found.output("score") == [1.0, 0.0, 0.0]
    assert found.output("error") == [""]
    assert found.json["parameters"]["release"] == 1
    assert found.json["id"]


def test_triton_s_raw_request_is_answered_in_binary(server):
    found = server.post(INFER, png("blue"), **RAW)
    assert found.headers["content-type"] == "application/octet-stream"
    assert found.output("label")[0] == "blue"
    assert found.output("score") == [1.0, 0.0, 0.0]


def test_files_in_json(server):
    found = server.post(INFER, files(png("red"), png("blue"), id="42", parameters={"top_k": 1}))
    assert found.json["id"] == "42"
    assert found.output("label") == ["red", "blue"]
    assert found.json["outputs"][0]["shape"] == [2, 1]


@pytest.mark.parametrize("how", ["json", "binary", "one", "several"])
def test_outputs_are_binary_where_they_are_asked_to_be(server, how):
    wanted = {
        "json": {},
        "binary": {"parameters": {"binary_data_output": True}},
        "one": {
            "outputs": [{"name": "label"}, {"name": "score", "parameters": {"binary_data": True}}]
        },
        "several": {
            "outputs": [{"name": "score", "parameters": {"binary_data": False}}, {"name": "label"}],
            "parameters": {"binary_data_output": True},
        },
    }[how]
    body, head = binary([png("red"), png("green")], **wanted)
    found = server.post(INFER, body, **head)
    assert found.status == 200, found.body
    sizes = {
        each["name"]: "parameters" in each
        for each in found.json["outputs"]
        if each["name"] in {"label", "score"}
    }
    assert (
        sizes
        == {
            "json": {"label": False, "score": False},
            "binary": {"label": True, "score": True},
            "one": {"label": False, "score": True},
            "several": {"label": True, "score": False},
        }[how]
    )
    assert found.output("label")[::3] == ["red", "green"]
    assert found.output("score")[::3] == [1.0, 1.0]


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_may_be_compressed(server, name, pack):
    body, head = binary([png("red")])
    assert server.post(INFER, pack(body), Content_Encoding=name, **head).output("label")[0] == "red"


def test_prepared_images(server):
    images = np.stack([picture("red"), picture("blue")])
    assert server.pixels(images).output("label")[::3] == ["red", "blue"]
    nested = {"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
    nested["data"] = [picture("green").tolist()]
    assert server.post(PIXELS, {"inputs": [nested]}).output("label")[0] == "green"
    head = {"datatype": "UINT8", "shape": list(images.shape)}
    head["parameters"] = {"binary_data_size": images.nbytes}
    text = json.dumps({"inputs": [{"name": "image", **head}]}).encode()
    own = {HEADER.replace("-", "_"): str(len(text))}
    found = server.post(PIXELS, text + images.tobytes(), **own)
    assert found.output("label")[::3] == ["red", "blue"]


def test_the_classification_extension(server):
    wanted = [{"name": "scores", "parameters": {"classification": 2}}]
    found = server.pixels([picture("blue")], wanted)
    assert found.json["outputs"][0] == {
        "name": "scores",
        "datatype": "BYTES",
        "shape": [1, 2],
        "data": ["1.0:2:blue", "0.0:0:red"],
    }
    wanted[0]["name"] = "score"
    found = server.pixels([picture("blue")], wanted)
    assert (found.status, "must be asked of the output scores" in found.error) == (400, True)


def test_scores_and_match_are_given_on_request(server):
    wanted = [{"name": name} for name in ("scores", "match", "match_score")]
    found = server.pixels([picture("white")], wanted)
    assert found.output("scores") == pytest.approx([0.6, 0.6, 0.6], abs=1e-3)
    assert found.output("match") == [0]
    assert found.output("match_score") == [1.0]


def test_scores_have_the_digits_of_a_float32(server):
    found = server.pixels([picture("white")], [{"name": "scores"}])
    assert all(len(str(each)) <= 12 for each in found.output("scores"))


def test_known_is_given_where_the_release_has_a_threshold(world):
    packs = [world.pack(i, (name,)) for i, name in enumerate(("red", "green"))]
    path = world.made(*packs, unknown_below=0.5).write(world.fresh())
    with serving(Classifier.open(world.bundle_path, path, threads=1)) as server:
        images = np.stack([picture("red"), picture("blue")])
        assert server.pixels(images).output("known") == [True, False]
        assert server.get("/v2/models/edgecl").json["outputs"][2]["name"] == "known"
        text = server.get("/metrics").body.decode()
    assert 'edgecl_images_total{outcome="known"} 1.0' in text
    assert 'edgecl_images_total{outcome="unknown"} 1.0' in text


def test_known_is_refused_where_it_has_none(server):
    found = server.pixels([picture("red")], [{"name": "known"}])
    assert (found.status, "a release with a threshold" in found.error) == (400, True)


def test_a_broken_image_does_not_fail_its_batch(server):
    found = server.post(INFER, files(png("red"), b"no image", png("blue")))
    assert found.output("label") == ["red", "green", "blue", "", "", "", "blue", "red", "green"]
    assert found.output("error")[::2] == ["", ""]
    assert "found a text" in found.output("error")[1]
    found = server.post(INFER, files(b"no image", b"nor this"))
    assert found.status == 200
    assert found.output("label") == ["", ""]


def test_a_broken_image_fails_what_would_not_tell_of_it(server):
    found = server.post(INFER, files(png("red"), b"no image", outputs=[{"name": "label"}]))
    assert (found.status, "unless the output error is asked for" in found.error) == (400, True)
    found = server.image(b"no image")
    assert (found.status, "found a text" in found.error) == (400, True)


def test_the_repository_of_a_bundle_and_a_release(server):
    entry = {"version": "1", "state": "READY", "reason": ""}
    both = [{"name": name, **entry} for name in ("edgecl", "edgecl.pixels")]
    assert server.post("/v2/repository/index").json == both
    assert server.post("/v2/repository/index", {"ready": True}).json == both
    wrong = server.post("/v2/repository/index", {"ready": {"a": 1}})
    assert (wrong.status, wrong.error[:27]) == (400, "ready must be true or false")
    assert server.post("/v2/repository/models/edgecl/load").status == 200
    found = server.post("/v2/repository/models/edgecl/load", {"parameters": {"config": "{}"}})
    assert (found.status, "without parameters" in found.error) == (400, True)
    found = server.post("/v2/repository/models/edgecl/unload")
    assert (found.status, "must stay loaded" in found.error) == (400, True)


def test_statistics_count_images_and_runs(fresh):
    fresh.pixels([picture("red")] * 3)
    fresh.pixels([picture("red")])
    fresh.image(b"no image")
    (found,) = fresh.get("/v2/models/edgecl/versions/1/stats").json["model_stats"]
    assert fresh.get("/v2/models/stats").status == 200
    assert (found["inference_count"], found["execution_count"]) == (4, 2)
    assert [each["batch_size"] for each in found["batch_stats"]] == [1, 3]
    assert found["inference_stats"]["success"]["count"] == 2
    assert found["inference_stats"]["fail"]["count"] == 1
    assert found["inference_stats"]["compute_infer"]["ns"] > 0


def test_a_request_in_json_may_be_for_a_version(server):
    path = "/v2/models/edgecl/versions/1/infer"
    assert server.post(path, files(png("red"))).output("label")[0] == "red"
    assert server.post(path.replace("1", "9"), files(png("red"))).status == 404

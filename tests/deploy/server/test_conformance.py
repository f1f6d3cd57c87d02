"""Clients that others wrote. They are not in the development environment: install them to run this.

pip install 'tritonclient[http]' open-inference-openapi

KServe's has an environment of its own: python -m venv k && k/bin/pip install kserve, and
EDGECL_KSERVE=k/bin/python.
"""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.deploy.support.asking import png, serving
from tests.deploy.support.world import picture

from edgecl_deploy import Classifier

pytestmark = pytest.mark.slow
KSERVE = Path(__file__).parents[1] / "support" / "kserve_client.py"
OUTPUTS = ("label", "score", "known", "error", "match", "scores")


@pytest.fixture(scope="module")
def triton():
    return pytest.importorskip(
        "tritonclient.http", reason="tritonclient is not installed: pip install tritonclient[http]"
    )


@pytest.fixture
def server(world):
    packs = [world.pack(i, (name,)) for i, name in enumerate(("red", "green", "blue"))]
    path = world.made(*packs, unknown_below=0.5).write(world.fresh())
    with serving(Classifier.open(world.bundle_path, path, threads=1)) as asked:
        yield asked


@pytest.fixture
def client(triton, server):
    with triton.InferenceServerClient("{}:{}".format(*server.address), concurrency=4) as made:
        yield made


def files(triton, *names):
    given = triton.InferInput("image", [len(names)], "BYTES")
    given.set_data_from_numpy(np.array([png(name) for name in names], dtype=np.object_))
    return [given]


def pixels(triton, binary, *names):
    images = np.stack([picture(name) for name in names])
    given = triton.InferInput("image", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    return [given]


def text(values):
    return [each.decode() if isinstance(each, bytes) else each for each in values]


def test_triton_s_client_looks_around(triton, client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("edgecl")
    assert client.is_model_ready("edgecl", "1")
    assert not client.is_model_ready("edgecl", "2")
    assert "classification" in client.get_server_metadata()["extensions"]
    assert len(client.get_model_metadata("edgecl", "1")["outputs"]) == 9
    assert client.get_model_config("edgecl.pixels")["name"] == "edgecl.pixels"
    assert client.get_inference_statistics()["model_stats"]
    assert client.get_inference_statistics("edgecl", "1")["model_stats"]
    assert [each["state"] for each in client.get_model_repository_index()] == ["READY"] * 2
    client.load_model("edgecl")
    with pytest.raises(Exception, match="must stay loaded") as found:
        client.unload_model("edgecl")
    assert found.value.status() == "400"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_triton_s_client_asks(triton, client, binary_in, binary_out):
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in OUTPUTS]
    images = pixels(triton, binary_in, "green", "white")
    found = client.infer("edgecl.pixels", images, outputs=outputs, request_id="7")
    assert found.get_response()["id"] == "7"
    assert text(found.as_numpy("label")[:, 0])[0] == "green"
    assert found.as_numpy("scores")[0] == pytest.approx([0, 1, 0])
    assert found.as_numpy("known").tolist() == [True, True]


def test_triton_s_client_asks_in_other_ways(triton, client):
    found = client.infer("edgecl", files(triton, "red", "blue"))
    assert text(found.as_numpy("label")[:, 0]) == ["red", "blue"]
    for how in ("gzip", "deflate"):
        compressed = {"request_compression_algorithm": how, "response_compression_algorithm": how}
        found = client.infer("edgecl", files(triton, "blue"), **compressed)
        assert text(found.as_numpy("label")[:, 0]) == ["blue"]
    more = {"timeout": 5_000_000, "priority": 1, "parameters": {"top_k": 2, "mine": "x"}}
    found = client.infer("edgecl", files(triton, "blue"), model_version="1", **more)
    assert found.as_numpy("label").shape == (1, 2)
    best = [triton.InferRequestedOutput("scores", class_count=2)]
    found = client.infer("edgecl.pixels", pixels(triton, True, "green"), outputs=best)
    assert text(found.as_numpy("scores")[0]) == ["1.0:1:green", "0.0:0:red"]
    with pytest.raises(Exception, match="must be one of edgecl") as error:
        client.infer("other", files(triton, "red"))
    assert error.value.status() == "404"
    asked = [client.async_infer("edgecl", files(triton, "red")) for _ in range(16)]
    assert {text(each.get_result().as_numpy("label")[0])[0] for each in asked} == {"red"}


def test_triton_s_asynchronous_client(triton, server):
    aio = pytest.importorskip("tritonclient.http.aio")

    async def ask():
        async with aio.InferenceServerClient("{}:{}".format(*server.address)) as made:
            assert await made.is_server_ready()
            return await made.infer("edgecl", files(triton, "green"))

    assert text(asyncio.run(ask()).as_numpy("label")[0])[0] == "green"


@pytest.mark.filterwarnings("ignore")  # of pydantic's old interface, which that client uses
def test_the_client_of_the_protocol_s_openapi_file(server):
    made = pytest.importorskip(
        "open_inference.openapi.client",
        reason="open-inference-openapi is not installed: pip install open-inference-openapi",
    )
    with made.httpx.Client() as link:
        url = "http://{}:{}".format(*server.address)
        check_client(made, made.OpenInferenceClient(base_url=url, httpx_client=link), server)


def check_client(made, client, server):
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness("edgecl")
    client.check_model_version_readiness("edgecl", "1")
    assert client.read_server_metadata().name == "edgecl"
    assert client.read_model_metadata("edgecl").platform == "edgecl"
    assert client.read_model_version_metadata("edgecl", "1").versions == ["1"]
    entry = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3]}
    entry["data"] = picture("green").reshape(-1).tolist()
    request = made.InferenceRequest.parse_obj({
        "id": "7",
        "inputs": [entry],
        "outputs": [{"name": "label"}],
    })
    for found in (
        client.model_infer("edgecl.pixels", request=request),
        client.model_version_infer("edgecl.pixels", "1", request=request),
    ):
        assert (found.id, found.model_version) == ("7", "1")
        assert found.outputs[0].shape == [1, 3]
    with pytest.raises(made.NotFoundError):
        client.check_model_readiness("other")
    with pytest.raises(made.BadRequestError):
        client.model_infer("edgecl", request=request)
    server.service.drain()
    with pytest.raises(made.ServiceUnavailableError):
        client.check_server_readiness()


def test_kserve_s_client(server, tmp_path):
    python = os.environ.get("EDGECL_KSERVE")
    if python is None:
        pytest.skip("kserve is not installed: EDGECL_KSERVE names a Python that has it")
    image = tmp_path / "blue.png"
    image.write_bytes(png("blue"))
    url = "http://{}:{}".format(*server.address)
    own = {**os.environ, "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [python, KSERVE, url, image], capture_output=True, text=True, env=own, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [found[each] for each in ("live", "ready", "model", "other")] == [True] * 3 + [False]
    assert (found["id"], found["label"]) == ("7", "blue")
    assert {"label", "score", "known", "error"} <= set(found["outputs"])
    assert found["pixels"] == "edgecl.pixels"
    status, words = found["error"]
    assert (status, "datatype" in words) == (400, True)

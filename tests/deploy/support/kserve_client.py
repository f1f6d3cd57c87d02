"""Asks a server by KServe's own client, in an environment that has it; prints what it found.

It is a program of its own, because kserve brings 67 packages, of other versions than ours.
"""

import asyncio
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferInput, InferRequest, InferResponse
from kserve.inference_client import InferenceRESTClient, RESTConfig


async def ask(url, image):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    given = InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([image], dtype=np.object_), binary_data=True)
    request = InferRequest("edgecl", [given], request_id="7")
    answer = await client.infer(url, request, model_name="edgecl")
    assert isinstance(answer, InferResponse)
    found = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model": await client.is_model_ready(url, "edgecl"),
        "other": await client.is_model_ready(url, "other"),
        "id": answer.id,
        "label": text(next(each for each in answer.outputs if each.name == "label")),
        "outputs": [each.name for each in answer.outputs],
    }
    pixels = InferInput("image", [1, 8, 8, 3], "UINT8")
    pixels.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.uint8), binary_data=False)
    answer = await client.infer(
        url, InferRequest("edgecl.pixels", [pixels]), model_name="edgecl.pixels"
    )
    found["pixels"] = answer.model_name
    try:
        await client.infer(url, InferRequest("edgecl", [pixels]), model_name="edgecl")
    except httpx.HTTPStatusError as error:
        found["error"] = [error.response.status_code, str(error)]
    await client.close()
    return found


def text(output):
    first = np.ravel(output.as_numpy())[0]
    return first.decode() if isinstance(first, bytes) else first


if __name__ == "__main__":
    found = asyncio.run(ask(sys.argv[1], Path(sys.argv[2]).read_bytes()))
    sys.stdout.write(json.dumps(found))

"""A server in a thread of this process, on a free port, and what asks it."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from PIL import Image
from tests.deploy.support.following import until
from tests.deploy.support.world import picture

from edgecl_deploy.server import guard, listening
from edgecl_deploy.server.app import make_app
from edgecl_deploy.server.binary import HEADER
from edgecl_deploy.server.service import Service

INFER = "/v2/models/edgecl/infer"
PIXELS = "/v2/models/edgecl.pixels/infer"


def png(name):
    buffer = BytesIO()
    Image.fromarray(picture(name)).save(buffer, "PNG")
    return buffer.getvalue()


def prefixed(*parts):
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


class Reply:
    """An answer of the server."""

    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self):
        length = self.headers.get(HEADER)
        return json.loads(self.body if length is None else self.body[: int(length)])

    @property
    def error(self):
        return self.json["error"]

    def output(self, name):
        """The elements of an output, whether in JSON or binary."""
        tail = self.body[int(self.headers.get(HEADER, len(self.body))) :]
        for each in self.json["outputs"]:
            size = each.get("parameters", {}).get("binary_data_size")
            data, tail = (None, tail) if size is None else (tail[:size], tail[size:])
            if each["name"] == name:
                return each["data"] if data is None else decoded(data, each)
        raise KeyError(name)


def decoded(data, entry):
    if entry["datatype"] != "BYTES":
        kinds = {"FP32": "<f4", "BOOL": "?", "INT64": "<i8"}
        return np.frombuffer(data, kinds[entry["datatype"]]).tolist()
    found = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        found.append(data[4:end].decode())
        data = data[end:]
    assert len(found) == np.prod(entry["shape"])
    return found


class Asked:
    """A server that answers."""

    def __init__(self, service, server, bound):
        self.service, self.server, self.bound = service, server, bound
        self.address = bound.getsockname()

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body, named)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def post(self, path, body=None, **headers):
        data = json.dumps(body) if isinstance(body, dict) else body
        return self.ask("POST", path, data, **headers)

    def image(self, data, **headers):
        return self.post(INFER, data, Content_Type="image/png", **headers)

    def pixels(self, images, outputs=None, **fields):
        """Ask about prepared images, in JSON."""
        values = np.asarray(images)
        entry = {
            "name": "image",
            "datatype": "UINT8",
            "shape": list(values.shape),
            "data": values.reshape(-1).tolist(),
        }
        named = {} if outputs is None else {"outputs": outputs}
        return self.post(PIXELS, {"inputs": [entry], **named, **fields})

    def connect(self):
        return socket.create_connection(self.address, timeout=20)


@contextmanager
def serving(classifier, checks=None, page=None, **options):
    """Serve a classifier."""
    bound = listening.bind(guard.Address("127.0.0.1", 0))
    service = Service(classifier, **options)
    server = listening.make_server(make_app(service, checks or guard.Guard(), page), service, None)
    begun = threading.Event()
    thread = threading.Thread(target=listening.serve, args=(server, bound, begun.set))
    asked = Asked(service, server, bound)
    thread.start()
    try:
        assert begun.wait(20)
        yield asked
    finally:
        service.drain()
        thread.join(20)
        service.close()
        assert not thread.is_alive()
        assert until(lambda: service.images.used == service.held.used == 0)

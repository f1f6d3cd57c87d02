"""Who may ask, how much and how slowly; what is refused is refused in words."""

import gzip
import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import time
import zlib
from contextlib import suppress

import pytest
from tests.deploy.support.asking import INFER, PIXELS, Reply, png, prefixed, serving
from tests.deploy.support.following import until
from tests.deploy.support.world import SIDE, picture

from edgecl_deploy import Classifier
from edgecl_deploy.errors import OptionError
from edgecl_deploy.server import guard, limits, listening
from edgecl_deploy.server.app import make_app
from edgecl_deploy.server.binary import HEADER
from edgecl_deploy.server.guard import Address, Guard, Rights, Tokens
from edgecl_deploy.server.service import Service

READ, ADMIN = "r" * 32, "a" * 32
TOKENS = Tokens(((READ.encode(), Rights.READ), (ADMIN.encode(), Rights.ADMIN)))
HEAD = HEADER.replace("-", "_")


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


# -- addresses, names, tokens ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "open_"),
    [
        ("127.0.0.1:8080", False),
        ("127.9.9.9:1", False),
        ("localhost:80", False),
        ("[::1]:8080", False),
        ("unix:/run/edgecl.sock", False),
        ("0.0.0.0:8080", True),
        ("[::]:8080", True),
        ("192.168.1.2:80", True),
        ("camera-7:8080", True),
    ],
)
def test_an_address_that_others_reach_needs_a_guard(text, open_):
    address = Address.parse(text)
    assert address.open is open_
    address.check(guarded=True)
    if open_:
        with pytest.raises(OptionError, match=r"listen on 127\.0\.0\.1 or unix:PATH"):
            address.check(guarded=False)


@pytest.mark.parametrize("text", ["8080", ":8080", "host:", "host:70000", "host:x", "unix:", ""])
def test_what_is_no_address(text):
    with pytest.raises(OptionError, match=r"Say 127\.0\.0\.1:8080"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("192.168.1.2", 200),
        ("[::1]:8080", 200),
        ("localhost", 200),
        ("LOCALHOST.:9", 200),
        ("camera-7:8080", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("[::1].evil.example", 421),
        ("", 421),
    ],
)
def test_a_name_that_others_control_reaches_nothing(named, host, status):
    found = named.get("/v2/health/live", Host=host)
    assert found.status == status
    assert status == 200 or "--host NAME" in found.error


@pytest.fixture(scope="module")
def named(server):
    """The same server, which is also called camera-7."""
    checks = Guard(hosts=guard.names(Address("127.0.0.1", 1), ["camera-7"]))
    app = server.server.config.loaded_app
    before, app._guard = app._guard, checks
    yield server
    app._guard = before


def test_tokens_are_read_from_a_file_that_others_cannot_read(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# ours\nread {READ}\n\nadmin {ADMIN}\n")
    path.chmod(0o640)
    assert Tokens.read(path) == TOKENS
    path.chmod(0o644)
    with pytest.raises(OptionError, match="chmod o="):
        Tokens.read(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must hold a token"),
        ("read short", "16 or more letters and digits; found 5 characters"),
        (f"write {READ}", "begins with read, enrol, admin"),
        (f"read {READ} {ADMIN}", "letters and digits"),
        (READ, "begins with read, enrol, admin"),
    ],
)
def test_what_is_no_file_of_tokens(tmp_path, text, says):
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(OptionError, match=says) as found:
        Tokens.read(path)
    assert READ not in str(found.value)
    with pytest.raises(OptionError, match="a readable text"):
        Tokens.read(tmp_path / "none")


def test_every_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(
        guard.hmac, "compare_digest", lambda one, other: compared.append(other) or one == other
    )
    assert TOKENS.rights(f"Bearer {READ}", Rights.NONE) is Rights.READ
    assert compared == [READ.encode()] * 2


def test_a_server_with_tokens_asks_for_one(classifier):
    feature = [{"name": "feature"}]
    with serving(classifier, Guard(TOKENS)) as server:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert server.get(path).status == 200
        for path in ("/v2", "/metrics", "/v2/models/edgecl", "/edgecl/v1/status", "/none"):
            found = server.get(path)
            assert (found.status, found.headers["WWW-Authenticate"]) == (401, "Bearer")
        for header in (f"Bearer {READ}x", f"Basic {READ}", "Bearer", "Bearer é"):
            assert server.get("/v2", Authorization=header).status == 401
        assert server.get("/v2", **bearer(READ)).status == 200
        found = server.post(PIXELS, pixels(feature), **bearer(READ))
        assert (found.status, "token admin" in found.error) == (403, True)
        found = server.post(PIXELS, pixels(feature), **bearer(ADMIN))
        assert found.output("feature") == [1.0, 0.0, 0.0]
        text = server.get("/metrics", **bearer(ADMIN)).body.decode()
    assert 'edgecl_rejected_total{reason="auth"} 10.0' in text


def test_features_are_for_the_token_admin_alone(server):
    assert server.post(PIXELS, pixels([{"name": "feature"}])).status == 403


def pixels(outputs=None, **fields):
    entry = {"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
    entry["data"] = picture("red").reshape(-1).tolist()
    own = {} if outputs is None else {"outputs": outputs}
    return {"inputs": [{**entry, **fields}], **own}


# -- sockets --------------------------------------------------------------------------------------


def test_a_socket_in_the_file_system_is_for_its_user_and_group(tmp_path):
    path = tmp_path / "s"
    with listening.bind(Address(path=str(path))) as bound:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert listening.url_of(bound, encrypted=False) == f"unix:{path}"
        bound.listen()
        with pytest.raises(OptionError, match="that nobody has"):
            listening.bind(Address(path=str(path)))
    listening.bind(Address(path=str(path))).close()  # what a killed server left is taken over
    path.unlink()
    path.write_text("no socket")
    with pytest.raises(OptionError, match="that nobody has"):
        listening.bind(Address(path=str(path)))


def test_an_address_that_is_taken():
    with listening.bind(Address("127.0.0.1", 0)) as bound:
        bound.listen()
        with pytest.raises(OptionError, match="Choose another port"):
            listening.bind(Address("127.0.0.1", bound.getsockname()[1]))


def test_an_answer_is_sent_without_a_delay(server):
    """Its head and its body are two packets: without TCP_NODELAY the second waits 40 ms."""
    connection = http.client.HTTPConnection(*server.address, timeout=20)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()
        times.append(time.perf_counter() - begin)
    connection.close()
    assert sorted(times)[5] < 0.03


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_a_caller_shows_a_certificate(classifier, tmp_path):
    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=tmp_path)

    for name in ("server", "other"):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        openssl("req", "-x509", "-days", "2", *key, *subject, *files)
    cert, key = str(tmp_path / "server.pem"), str(tmp_path / "server.key")
    tls = listening.Tls(cert, key, cert)
    bound, service = listening.bind(Address("127.0.0.1", 0)), Service(classifier)
    server = listening.make_server(make_app(service, Guard()), service, tls)
    begun = threading.Event()
    thread = threading.Thread(target=listening.serve, args=(server, bound, begun.set))
    thread.start()
    assert begun.wait(20)
    address = bound.getsockname()

    def status(pair):
        made = ssl.create_default_context(cafile=cert)
        if pair:
            made.load_cert_chain(tmp_path / f"{pair}.pem", tmp_path / f"{pair}.key")
        plain = socket.create_connection(address, timeout=20)
        with plain, made.wrap_socket(plain, server_hostname="localhost") as link:
            link.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            words = link.recv(64).split()
            if not words:
                raise ConnectionError("it was closed")
            return int(words[1])

    try:
        assert status("server") == 200
        for pair in (None, "other"):
            with pytest.raises(OSError):  # noqa: PT011  ssl's, or of a connection that ends
                status(pair)
    finally:
        service.drain()
        thread.join(20)
        service.close()
    with pytest.raises(OptionError, match="must be PEM files that belong together"):
        listening.Tls(cert, str(tmp_path / "other.key")).context()


# -- bodies ---------------------------------------------------------------------------------------


def head(text=b"{}", **fields):
    return text, {HEAD: str(len(text)), **fields}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "one JSON object in UTF-8"),
        (b"[]", "one JSON object"),
        (b"{", "one JSON object"),
        (b"\xff\xfe", "one JSON object"),
        (b'{"a": 1, "a": 2}', "each key once"),
        (b'{"a": NaN}', "one JSON object"),
        (b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}", "nest at most 12"),
        (b"{}", "must have the field 'inputs'"),
        ({"inputs": []}, "the one input 'image'; found 0 inputs"),
        ({"inputs": {}}, "request.inputs must be a list"),
        ({"inputs": [1]}, r"request.inputs[0] must be a JSON object"),
        (pixels(name="other"), "name must be one of image"),
        (pixels(datatype="FP32"), "datatype must be one of UINT8"),
        (pixels(shape=[1, 2, 3]), "shape must be [-1, 8, 8, 3]; found [1, 2, 3]"),
        (pixels(shape=[-1, SIDE, SIDE, 3]), "a list of sizes"),
        (pixels(shape=["1", SIDE, SIDE, 3]), "a list of sizes"),
        (pixels(shape=[0, SIDE, SIDE, 3], data=[]), "1 to 32 images; found 0"),
        (pixels(shape=[33, SIDE, SIDE, 3]), "1 to 32 images; found 33"),
        (pixels(shape=[2, SIDE, SIDE, 3]), "the 384 elements of its shape; found 192"),
        (pixels(data=[1, [2]]), "elements of its shape"),
        (pixels(data=[[1], 2]), "nested evenly"),
        (pixels(data=7), "elements of its shape"),
        (pixels(data=[256] * 192), "a whole number of 0 to 255"),
        (pixels(data=[0.5] * 192), "a whole number of 0 to 255"),
        (pixels(parameters={"binary_data_size": 192}), "the number of bytes after the JSON"),
        (pixels(outputs=[{"name": "other"}]), "name must be one of label"),
        (pixels(outputs=[{"name": "score", "parameters": {"binary_data": 1}}]), "true or false"),
        (pixels(outputs=[{"name": "label"}] * 17), "at most 16 entries"),
        ({**pixels(), "parameters": {"top_k": 0}}, "a whole number of 1 to 1000"),
        ({**pixels(), "parameters": {"timeout": -1}}, "a whole number of 0 to"),
        (pixels(outputs=[{"name": "label"}] * 2), "asked for once"),
        ({**pixels(), "id": 7}, "a printable text"),
    ],
)
def test_a_malformed_request_is_refused_in_words(server, body, says):
    found = server.post(PIXELS, body)
    assert found.status == 400
    assert says in found.error
    assert "docs/serve.md" in found.error or found.error.endswith(".")


def test_outputs_that_are_null_are_all(server):
    assert server.post(PIXELS, {**pixels(), "outputs": None}).output("label")[0] == "red"


FILE = {"name": "image", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("entry", "tail", "says"),
    [
        ({"data": ["abc"]}, b"", 'Set parameters.content_type to "base64"'),
        ({"data": ["a b"], "parameters": {"content_type": "base64"}}, b"", "a text in base64"),
        ({"data": [7], "parameters": {"content_type": "base64"}}, b"", "a text in base64"),
        ({"data": ["YQ=="], "parameters": {"content_type": "hex"}}, b"", "one of base64"),
        ({"data": ["YQ=="], "parameters": {"content_type": "base64"}}, b"x", "binary_data_size"),
        ({"parameters": {"binary_data_size": 3}}, b"abc", "its length in 4 bytes"),
        ({"parameters": {"binary_data_size": 5}}, b"\xff\xff\xff\xffa", "its length in 4 bytes"),
        ({"parameters": {"binary_data_size": 4}}, b"abcde", "the number of bytes after the JSON"),
        ({"parameters": {"binary_data_size": -1}}, b"", "a whole number of 0 to"),
        ({"parameters": {"binary_data_size": 0}}, b"", "must have the 1 elements of its shape"),
        ({"parameters": {"binary_data_size": 8}}, bytes(8), "of its shape; found more"),
        ({}, b"", "must have the field 'data'"),
    ],
)
def test_malformed_tensors_are_refused_in_words(server, entry, tail, says):
    text = json.dumps({"inputs": [{**FILE, **entry}]}).encode()
    found = server.post(INFER, text + tail, **{HEAD: str(len(text))})
    assert found.status == 400
    assert says in found.error


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999999999999", "3"])
def test_a_length_that_is_not_that_of_the_json(server, length):
    assert server.post(INFER, b"{}", **{HEAD: length}).status == 400


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(bytes(limits.MAX_BODY + 1), mtime=0), "gzip", 413),
        (gzip.compress(b"{}", mtime=0)[:-4], "gzip", 400),
        (gzip.compress(b"{}", mtime=0) + b"more", "gzip", 400),
        (b"no gzip", "gzip", 400),
        (b"", "deflate", 400),
        (b"{}", "br", 415),
    ],
)
def test_a_compressed_body_that_is_damaged_or_too_large(server, body, encoding, status):
    found = server.post(INFER, body, Content_Encoding=encoding)
    assert found.status == status
    assert found.error


def test_a_bomb_of_pixels_is_not_decoded(server):
    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    size = (8_000).to_bytes(4, "big")
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
    bomb += chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    found = server.image(bomb)
    assert (found.status, "pixels; found 8000 x 8000" in found.error) == (400, True)


def send(server, text):
    """Send bytes, and return the status and what the connection gave until it ended."""
    with server.connect() as link:
        link.sendall(text)
        return until_end(link)


def until_end(link):
    data = b""
    while part := link.recv(65536):
        data += part
    return int(data.split()[1]), data


POST = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n".encode()
LAST = POST + b"Connection: close\r\n"  # else the server waits seconds for a next request


def test_a_body_that_is_too_large_is_not_read(server):
    status, data = send(server, LAST + b"Content-Length: 33554433\r\n\r\n")
    assert status == 413
    assert b"at most 33554432 bytes" in data


def test_a_body_without_a_length_is_counted(server, monkeypatch):
    monkeypatch.setattr(guard, "MAX_BODY", 1000)
    chunks = b"200\r\n" + bytes(512) + b"\r\n"
    status, data = send(server, LAST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks * 2)
    assert (status, b"at most 33554432 bytes" in data) == (413, True)


def test_a_slow_body_is_given_up(server, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with server.connect() as link:
        link.sendall(POST + b"Content-Length: 100\r\n\r\n")
        for _ in range(3):
            link.sendall(b"x")
            time.sleep(0.05)
        status, data = until_end(link)
    assert status == 408
    assert b"within 0.2 seconds; found 3 bytes" in data


def test_a_caller_that_leaves_costs_nothing(server):
    link = server.connect()
    link.sendall(POST + b"Content-Length: 100\r\n\r\nx")
    assert until(lambda: server.service.held.used == 1)
    link.close()
    assert until(lambda: server.service.held.used == 0)
    assert server.image(png("red")).status == 200


def test_bodies_are_bounded_together(server, monkeypatch):
    monkeypatch.setattr(server.service.held, "most", 10)
    found = server.image(png("red"))
    assert (found.status, found.headers["Retry-After"]) == (503, "1")
    assert "bytes of bodies may be in work" in found.error


def test_a_head_that_is_too_long(server):
    status, _ = send(server, POST + b"X: " + b"y" * 2 * limits.MAX_HEAD)  # and no end
    assert status == 400


def test_a_slow_head_is_given_up(server, monkeypatch):
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    for before in (b"", b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        begin = time.monotonic()
        with server.connect() as link:
            link.sendall(before + b"GET /v2 HTTP/1.1\r\n")
            for _ in range(20):
                time.sleep(0.05)
                try:
                    link.sendall(b"X: y\r\n")
                except OSError:
                    break
            assert time.monotonic() - begin < 1.0
    assert server.image(png("red")).status == 200


def test_words_that_are_no_http(server):
    assert send(server, b"\x16\x03\x01\x02\x00\x01\r\n\r\n")[0] == 400
    assert server.get("/v2/health/live").status == 200


# -- how many -------------------------------------------------------------------------------------


def together(count, ask):
    found, threads = [None] * count, []

    def one(i):
        found[i] = ask(i)

    for i in range(count):
        threads.append(threading.Thread(target=one, args=(i,)))
        threads[-1].start()
    return found, threads


def join(threads):
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_a_full_queue_refuses_and_says_when_to_ask_again(classifier, gate):
    with serving(classifier, room=3) as server:
        found, threads = together(3, lambda _: server.image(png("red")))
        assert until(lambda: server.service.images.used == 3)
        refused = server.image(png("red"))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert "at most 3 images may be in work" in refused.error
        gate.set()
        join(threads)
        assert [each.status for each in found] == [200] * 3
        many = server.pixels([picture("red")] * 4)
        assert (many.status, "at most 3 images, as --queue has it" in many.error) == (400, True)
        text = server.get("/metrics").body.decode()
    assert 'edgecl_rejected_total{reason="full"} 1.0' in text


def test_what_waits_is_run_together_and_nothing_waits_for_more(classifier, gate):
    with serving(classifier) as server:
        found, threads = together(1, lambda _: server.image(png("red")))
        assert until(lambda: gate.runs == [1])
        colours = ["red", "green", "blue"] * 4
        more, others = together(12, lambda i: server.image(png(colours[i])))
        assert until(lambda: len(server.service._runner._waiting) == 12)
        gate.set()
        join([*threads, *others])
    assert gate.runs == [1, 8, 4]
    assert [each.output("label")[0] for each in more] == colours
    assert found[0].status == 200


def test_a_request_that_is_late_is_never_run(classifier, gate):
    with serving(classifier, deadline=0.3) as server:
        found, threads = together(1, lambda _: server.image(png("red")))
        assert until(lambda: gate.runs == [1])
        late = server.image(png("red"))
        assert (late.status, "within its time" in late.error) == (504, True)
        begin = time.monotonic()
        late = server.pixels([picture("red")], parameters={"timeout": 1000})
        assert late.status == 504
        assert time.monotonic() - begin < 0.25
        gate.set()
        join(threads)
        assert found[0].status == 200  # its run had begun
        assert server.image(png("red")).status == 200
    assert gate.runs == [1, 1]


def test_a_server_that_ends_finishes_what_has_begun(classifier, gate):
    with serving(classifier) as server:
        found, threads = together(2, lambda _: server.image(png("red")))
        assert until(lambda: server.service.images.used == 2)
        server.service.drain()
        for path in ("/v2/health/ready", "/v2/models/edgecl/ready"):
            assert server.get(path).status == 503
        assert server.get("/v2/health/live").status == 200
        refused = server.image(png("red"))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        gate.set()
        join(threads)
        assert [each.status for each in found] == [200, 200]


def test_an_engine_that_fails_is_an_error_of_ours_without_details(fresh, monkeypatch):
    told = []
    monkeypatch.setattr(fresh.service.events, "_tell", told.append)

    def fails(loaded, images):
        raise OSError("/secret/path")

    monkeypatch.setattr(type(fresh.service.classifier.loaded), "scored", fails)
    found = fresh.image(png("red"))
    assert (found.status, "secret" in found.error) == (500, False)
    assert [each["error"] for each in told] == ["OSError: /secret/path"]
    assert [entry["error"] for _, entry in fresh.service.events.after(0)] == ["OSError"]


def test_a_log_that_takes_no_line_ends_nothing(fresh, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fresh.service.events, "_tell", full)
    fresh.service.events.add("swap")
    assert fresh.service.events.count == 1


def test_a_version_is_that_of_the_run(world, classifier):
    with serving(classifier) as server:
        later = Classifier.open(world.bundle_path, world.release("red", "green", number=2))
        server.service._runner._current = lambda: later.loaded  # it was taken meanwhile
        found = server.post(
            "/v2/models/edgecl/versions/1/infer", png("red"), Content_Type="image/png"
        )
        assert (found.status, "the one that answers, 2" in found.error) == (404, True)
        assert server.image(png("red")).json["model_version"] == "2"


def test_a_second_signal_ends_at_once(fresh):
    server = fresh.server
    server.handle_exit(15, None)
    assert (server.should_exit, server.force_exit) == (False, False)
    assert until(lambda: fresh.service.draining)
    server.handle_exit(15, None)
    assert (server.should_exit, server.force_exit) == (True, True)


def test_connections_are_bounded(fresh, monkeypatch):
    monkeypatch.setattr(listening.limits, "MAX_CONNECTIONS", 2)
    links = [fresh.connect() for _ in range(2)]
    for link in links:
        link.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert link.recv(100).startswith(b"HTTP/1.1 200")
    more = fresh.connect()
    with suppress(ConnectionResetError):
        assert more.recv(100) == b""
    for link in (*links, more):
        link.close()


def test_an_answer_that_nobody_reads_is_cut_off(fresh, monkeypatch):
    monkeypatch.setattr(listening.limits, "BODY_SECONDS", 0.2)
    link = fresh.connect()
    link.settimeout(20)
    ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def never_read():
        while True:
            link.sendall(ask * 50)

    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        never_read()
    link.close()


def test_a_socket_that_another_server_took_over_stays(tmp_path, classifier):
    path = tmp_path / "socket"
    bound = listening.bind(Address(path=str(path)))
    service = Service(classifier)
    server = listening.make_server(make_app(service, Guard()), service, None)

    def begun():
        path.unlink()
        path.write_bytes(b"another's")
        service.drain()

    listening.serve(server, bound, begun)
    service.close()
    assert path.read_bytes() == b"another's"


def test_a_score_that_is_no_number(fresh, monkeypatch):
    loaded, scored = type(fresh.service.classifier.loaded), fresh.service.classifier.loaded.scored

    def broken(_, images):
        who, out = scored(images)
        out.scores[0] = float("nan")
        return who, out

    monkeypatch.setattr(loaded, "scored", broken)
    found = fresh.image(png("red"))
    assert (found.status, "found NaN" in found.error) == (500, True)
    found = fresh.pixels([picture("red"), picture("blue")])
    assert found.output("label")[::3] == ["", "blue"]
    assert "found NaN" in found.output("error")[0]
    found = fresh.pixels([picture("red"), picture("blue")], [{"name": "label"}])
    assert (found.status, "found NaN" in found.error) == (500, True)
    assert 'edgecl_images_total{outcome="failed"} 3.0' in fresh.get("/metrics").body.decode()


def test_no_answer_names_a_path_of_the_device(server):
    answers = [server.get("/v2/models/x"), server.post(INFER, b"{"), server.image(b"x")]
    answers.append(server.get("/edgecl/v1/status"))
    for each in answers:
        assert os.fspath(server.service.classifier.bundle.path) not in each.body.decode()
        assert isinstance(each, Reply)


def test_the_elements_of_a_tensor_are_those_of_the_request(server):
    data = prefixed(png("red"), png("blue"))
    entry = {**FILE, "shape": [2, 1], "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [entry]}).encode()
    found = server.post(INFER, text + data, **{HEAD: str(len(text))})
    assert found.output("label")[::3] == ["red", "blue"]

"""`edgecl-device serve`: processes that are asked, signalled, and called wrongly."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from tests.deploy.support.asking import INFER, Reply, png
from tests.deploy.support.fleet import COMMAND
from tests.deploy.support.texts import write_text

from edgecl_deploy.cli import device


@pytest.fixture
def place(world):
    return [str(world.bundle_path), str(world.release("red", "green"))]


@contextmanager
def process(*words):
    line = [*COMMAND, "serve", *map(str, words), "--threads", "1", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **pipes) as child:
        try:
            yield child, json.loads(child.stdout.readline())
        finally:
            child.kill()


def ask(address, path, body=None):
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request(
            "GET" if body is None else "POST", path, body, {"Content-Type": "image/png"}
        )
        return Reply(connection.getresponse())
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_until_a_signal_and_ends_well(world, place, number):
    words = [*place, "--listen", "127.0.0.1:0", "--text", write_text(world)]
    with process(*words) as (child, begin):
        assert (begin["event"], begin["release"]) == ("start", 1)
        port = int(begin["url"].rpartition(":")[2])
        found = ask(("127.0.0.1", port), INFER, png("green"))
        assert found.output("label") == ["green", "red"]
        child.send_signal(number)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (0, "")
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["drain", "end"]


def test_a_socket_in_the_file_system(place, tmp_path):
    path = tmp_path / "s"
    with process(*place, "--listen", f"unix:{path}") as (child, begin):
        assert begin["url"] == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(path))
            link.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: anything\r\n\r\n")
            assert b"200 OK" in link.recv(4096)
        child.terminate()
        child.communicate(timeout=20)
    assert child.returncode == 0
    assert not path.exists()


def run(*words):
    return CliRunner().invoke(device, ["serve", *map(str, words)])


def test_it_does_not_listen_to_the_world_without_a_guard(place, tmp_path):
    found = run(*place, "--listen", "0.0.0.0:0")
    assert found.exit_code == 2
    assert "neither --token-file nor --client-ca" in found.stderr
    tokens = tmp_path / "tokens"
    tokens.write_text("read " + "r" * 32)
    tokens.chmod(0o644)
    found = run(*place, "--listen", "0.0.0.0:0", "--token-file", tokens)
    assert (found.exit_code, "chmod o=" in found.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["more"], "a store, or a bundle and a release: more"),
        (["--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (["--client-ca", "x"], "--client-ca needs both"),
        (["--tls-cert", "x", "--tls-key", "y"], "must be PEM files that belong together"),
        (["--listen", "8080"], "Say 127.0.0.1:8080"),
        (["--meanwhile", "none"], "engine must be a registered one"),
    ],
)
def test_a_wrong_command_line(place, words, says):
    found = run(*place, *words)
    assert found.exit_code == 2
    assert says in found.stderr


def test_an_installation_without_the_server_s_packages(place, monkeypatch):
    import edgecl_deploy.server.listening

    monkeypatch.delitem(sys.modules, "edgecl_deploy.server.listening")
    monkeypatch.delattr(edgecl_deploy.server, "listening")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = run(*place)
    assert found.exit_code == 1
    assert "pip install 'edgecl-deploy[server]'" in found.stderr

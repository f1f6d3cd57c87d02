"""A password is in no setting, log, status, hook or error; SIGTERM is heard during a download."""

import json
import subprocess
import time

import pytest
from tests.deploy.support.fault_server import Fault
from tests.deploy.support.fleet import COMMAND, wait_for
from tests.deploy.support.updating import configure

from edgecl_deploy.update.outcome import Outcome

URL = "https://fleet:pass-word@example.org/site"


def everything(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("url", [URL, "https://example.org/site?token=pass-word"])
def test_a_url_with_a_secret_is_refused(device_1, url):
    for words in (("config", f"url={url}"), ("update", "--from", url)):
        done = device_1.run(*words)
        assert (done.exit_code, "Leave them out of the URL" in done.output) == (2, True)
        assert "pass-word" not in done.output
    assert b"pass-word" not in everything(device_1.path)


def test_a_store_is_not_made_with_one(fleet):
    done = fleet.run("init", "--bundle", fleet.world.bundle_path, "--channel", URL, "--root",
                     fleet.world.root / "root.json")  # fmt: skip
    assert (done.exit_code, "Leave them out of the URL" in done.output) == (2, True)
    assert "pass-word" not in done.output


def test_the_secret_of_an_older_store_is_not_shown(device_1, monkeypatch):
    """An older store may have one in its URL: it goes on to work, and does not tell it."""
    with_secret = device_1.server.url.replace("://", "://fleet:pass-word@")
    heard = device_1.world.root / "heard"
    configure(device_1.store, url=with_secret, hook=("/bin/sh", "-c", f"cat >>{heard}"))
    device_1.publish(2)
    done = [device_1.update()]
    assert done[0].exit_code == 0
    device_1.server.faults["timestamp"] = Fault(status=401)
    done.append(device_1.update())
    assert done[1].exit_code == Outcome.OFFLINE.value
    done += [device_1.run("status"), device_1.run("config"), device_1.run("history")]
    done += [device_1.run("status", "--json"), device_1.run("config", "--json")]
    assert not [each.output for each in done if "pass-word" in each.output]
    assert "pass-word" not in heard.read_text()
    rest = [path for path in device_1.path.rglob("*") if path.is_file()]
    assert {path.name for path in rest if b"pass-word" in path.read_bytes()} == {"config.json"}


def test_sigterm_is_heard_during_a_download(device_1):
    device_1.publish(2)
    device_1.server.reset()
    device_1.server.faults[".safetensors"] = Fault(piece=1, pause=0.2)
    line = [*COMMAND, "update", str(device_1.path), "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            wait_for(lambda: any(".safetensors" in path for path in device_1.server.asked))
            time.sleep(0.3)
            begin = time.monotonic()
            process.terminate()
            out, _ = process.communicate(timeout=20)
            assert time.monotonic() - begin < 2.0
        finally:
            process.kill()
    assert process.returncode == Outcome.STOPPED.value
    assert json.loads(out)["outcome"] == "stopped"
    device_1.server.reset()
    assert device_1.update().exit_code == 0

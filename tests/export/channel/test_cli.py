"""`edgecl channel ...`: what it prints, its exit codes, and that keys are asked for in time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3
from click.testing import CliRunner, Result

from edgecl_export.channel import Repository
from edgecl_export.channel.cli import channel
from edgecl_export.errors import ChannelError

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `edgecl channel ARGUMENTS` on tmp/site and tmp/keys."""
    monkeypatch.setenv("EDGECL_SITE", str(tmp_path / "site"))
    monkeypatch.setenv("EDGECL_KEYS", str(tmp_path / "keys"))
    monkeypatch.delenv("EDGECL_KEY_PASSPHRASE", raising=False)

    def invoke(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(channel, [*map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return invoke


def test_every_command_speaks_json(
    run: Run, releases: dict[int, Path], shop: Any, tmp_path: Path
) -> None:
    made = json.loads(run("init", tmp_path / "site", "--dev", "--json").stdout)
    assert made == {
        "site": str(tmp_path / "site"),
        "keys": str(tmp_path / "keys"),
        "root": str(tmp_path / "keys" / "root.json"),
        "development": True,
    }

    def ask(*arguments: object) -> Any:
        result = run(*arguments, "--json")
        assert "DEVELOPMENT KEYS" in result.stderr, "every publishing command warns"
        return json.loads(result.stdout)

    put = ("--bundle", shop.bundle, "--channel")
    first = ask("publish", releases[1], *put, "stable")
    assert (first["channel"], first["release"], first["rollout"]) == ("stable", 1, None)
    assert (first["new_objects"], first["known_objects"]) == (5, 0)
    second = ask(
        "publish", releases[2], *put, "canary", "--rollout-hours", 2, "--percent", 40,
        "--start", "2030-01-31T06:00Z", "--min-release", 2,
    )  # fmt: skip
    assert second["rollout"]["start"] == 1895983200 + 86400
    assert (second["rollout"]["duration"], second["rollout"]["percent"]) == (7200, 40)
    assert second["min_release"] == 2
    assert ask("halt", "canary")["halted"]
    assert not ask("resume", "canary")["halted"]
    assert ask("promote", "--from", "canary", "--to", "stable")["release"] == 2
    assert ask("refresh", "--all")["missing"] == []
    copy = ask("bundle", tmp_path / "usb", "--channel", "stable", "--expires", "30d")
    assert copy["release"] == 2
    keyid = ask("key", "add", "packs-plant")["keyid"]
    (new,) = ask("key", "rotate", "packs-plant", keyid[:10])["replaced"].values()
    ask("key", "add", "packs-plant")
    assert ask("key", "revoke", "packs-plant", new)["roles"] == ["packs-plant"]
    status = json.loads(run("status", "--json").stdout)
    assert (status["code"], status["development"]) == (0, True)
    assert [each["name"] for each in status["channels"]] == ["canary", "stable"]


def test_people_read_text(run: Run, releases: dict[int, Path], shop: Any, tmp_path: Path) -> None:
    made = run("init", tmp_path / "site", "--unencrypted")
    assert "root-*.pem offline" in made.stdout
    assert made.stderr == ""
    put = ("--bundle", shop.bundle, "--channel", "stable")
    done = run("publish", releases[1], *put, "--percent", 50)
    assert done.stderr == ""
    assert "50 % of the devices" in done.stdout
    assert "5 new objects" in done.stdout
    assert "halted" in run("halt", "stable").stdout
    done = run("publish", releases[2], *put, "--sign-bundle")
    assert "bundle mean-colour (" in done.stdout
    assert "for all devices" in done.stdout
    assert "signed snapshot, timestamp" in run("refresh").stdout
    for path in (tmp_path / "keys").glob("targets-*.pem"):
        path.unlink()
    assert "not at hand: targets" in run("refresh", "--all").stdout
    shown = run("status").stdout
    assert "packs-lab" in shown
    assert "stable" in shown
    assert "is replaced by" in run("key", "rotate", "timestamp").stdout


@pytest.mark.parametrize(("age", "code"), [(0, 0), (10, 3), (20, 4)])
def test_the_status_is_for_cron(run: Run, tmp_path: Path, clock: Any, age: int, code: int) -> None:
    clock.sleep(days=-age)
    Repository.create(tmp_path / "site", tmp_path / "keys", development=True, clock=clock)
    assert ("refresh" in run("status", code=code).stdout) == (code > 0)
    assert json.loads(run("status", "--json", code=code).stdout)["code"] == code


def test_wrong_usage(run: Run, tmp_path: Path, releases: dict[int, Path], shop: Any) -> None:
    run("init", tmp_path / "site", "--dev")
    put = ("publish", releases[1], "--bundle", shop.bundle, "--channel", "stable")
    assert "ISO date" in run(*put, "--start", "tomorrow", code=2).output
    assert (
        "90d" in run("bundle", tmp_path / "x", "--channel", "a", "--expires", "1y", code=2).output
    )
    assert "--public" in run("key", "add", "root", "--uri", "hsm:", code=2).output
    with pytest.raises(ChannelError, match="Choose another one"):
        run("init", tmp_path / "site", "--dev")


def test_the_passphrase_comes_from_the_environment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChannelError, match="or use --unencrypted"):
        run("init", tmp_path / "site")
    monkeypatch.setenv("EDGECL_KEY_PASSPHRASE", "")
    with pytest.raises(ChannelError, match="or use --unencrypted"):
        run("init", tmp_path / "site")
    assert not (tmp_path / "site").exists()
    monkeypatch.setenv("EDGECL_KEY_PASSPHRASE", "open sesame, please")
    run("init", tmp_path / "site")
    assert b"OPENSSH" in (tmp_path / "keys" / "online-1.pem").read_bytes()
    run("refresh")
    monkeypatch.setenv("EDGECL_KEY_PASSPHRASE", "wrong")
    with pytest.raises(ChannelError, match="wrong one"):
        run("refresh")
    monkeypatch.delenv("EDGECL_KEY_PASSPHRASE")
    with pytest.raises(ChannelError, match="EDGECL_KEY_PASSPHRASE"):
        run("refresh")
    run("status")


def test_serve_until_interrupted(run: Run, tmp_path: Path) -> None:
    run("init", tmp_path / "site", "--dev")
    code = "from edgecl_export.channel.cli import channel; channel()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code, "serve", "--port", "0"],
        stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].split(",")[0]
        with urllib3.PoolManager() as http:
            assert http.request("GET", f"{url}/metadata/1.root.json").status == 200
        process.send_signal(signal.SIGTERM)
        assert "1 requests" in process.stdout.read()
    assert process.returncode == 0

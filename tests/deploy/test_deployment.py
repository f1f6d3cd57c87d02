"""The ways to put it on something: systemd units, the Mender module, the images."""

import configparser
import copy
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from edgecl_deploy.cli import device
from edgecl_deploy.update.outcome import FACTORY_KEPT, Outcome

ROOT = Path(__file__).parents[2] / "deploy"
UNITS = sorted((ROOT / "systemd").glob("*.service"))
HARDENED = {
    "ProtectSystem": "strict",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectHome": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallFilter": "@system-service",
}


def unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_service_has_no_more_rights_than_it_needs(path):
    service = unit(path)["Service"]
    assert {key: service.get(key) for key in HARDENED} == HARDENED
    assert service["User"] not in {"", "root"}
    writable = service["ReadWritePaths"]
    store, application = "/var/lib/edgecl/store", service["User"] == "edgecl-app"
    assert writable == (f"{store}/health -{store}/local" if application else store)
    assert service["UMask"] == ("0007" if application else "0027")


def commands() -> list[list[str]]:
    """Every `edgecl-device` line of the units and images, without the program's name."""
    lines = [unit(path)["Service"]["ExecStart"].split() for path in UNITS]
    found = [words[1:] for words in lines if words[0].endswith("/edgecl-device")]
    for image in sorted((ROOT / "docker").glob("*.Dockerfile")):
        found += [
            re.findall(r'"([^"]*)"', line)
            for line in re.findall(r"^CMD (.*)$", image.read_text(), re.M)
        ]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_units_and_images_run_commands_that_exist(words):
    command = copy.copy(device.commands[words[0]])
    command.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in command.params:
        if parameter.name == "store":
            parameter.callback = None  # there is none on this machine
    command.make_context(words[0], words[1:]).close()


def test_the_service_does_not_fail_when_there_is_nothing_to_do():
    service = unit(ROOT / "systemd" / "edgecl-update.service")["Service"]
    ordinary = {each.value for each in Outcome if 10 <= each.value < 20}
    assert {int(code) for code in service["SuccessExitStatus"].split()} == ordinary | {FACTORY_KEPT}


@pytest.mark.parametrize("name", ["edgecl-app", "edgecl-serve"])
def test_a_crash_of_the_application_undoes_a_trial(name):
    service = unit(ROOT / "systemd" / f"{name}.service")["Service"]
    line = service["ExecStopPost"].removeprefix("+").replace("$$", "$")
    for result, asked in (("success", ""), ("exit-code", "start edgecl-rollback.service\n")):
        script = f"systemctl() {{ echo $*; }}\n{shlex.split(line)[-1]}"
        done = subprocess.run(
            ["/bin/sh", "-c", script], env={"SERVICE_RESULT": result},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == asked


def test_the_containers_of_a_device_belong_together():
    compose = yaml.safe_load((ROOT / "compose" / "compose.yaml").read_text())
    services, secrets = compose["services"], set(compose["secrets"])
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["cap_drop"] == ["ALL"]
        assert set(service.get("secrets", ())) <= secrets
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (ROOT / "compose" / volume.split(":")[0]).is_file()
        if "build" in service:
            assert (ROOT.parent / service["build"]["dockerfile"]).is_file()
            assert service["read_only"] is True
    words = services["update"]["command"]
    assert words[0] in device.commands
    image = (ROOT / "docker" / "serve.Dockerfile").read_text()
    (line,) = re.findall(r"^CMD (.*)$", image, re.M)
    assert '"--host", "edgecl"' in line
    assert '"/run/secrets/edgecl-tokens"' in line
    (job,) = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["edgecl:8080"]}]
    assert job["authorization"]["credentials_file"] == "/run/secrets/edgecl-token"


def test_systemd_accepts_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here: the units were checked by their text only")
    for path in [*UNITS, *(ROOT / "systemd").glob("*.timer")]:
        text = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", path.read_text(), flags=re.M)
        (tmp_path / path.name).write_text(text)
    names = sorted(str(path) for path in tmp_path.iterdir())
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True
    )
    ours = [line for line in result.stderr.splitlines() if "edgecl" in line]
    assert not ours


FAKE = """#!/bin/sh
echo "$@" >>"$FAKE/calls"
case "$1" in
status) printf '{"release": %s, "min_release": 3, "denied": {}}\\n' "$(cat "$FAKE/serving")" ;;
pin) echo "$3" >"$FAKE/pinned" ;;
update)
    [ -e "$FAKE/status" ] && exit "$(cat "$FAKE/status")"
    cat "$FAKE/pinned" >"$FAKE/serving" ;;
rollback) echo 6 >"$FAKE/serving" ;;
esac
"""


class Mender:
    """The part of Mender that runs update modules, with a fake `edgecl-device` on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        (self.files / "header").mkdir(parents=True)
        (self.files / "tmp").mkdir()
        (self.files / "header" / "meta-data").write_text('{"release": 7}')
        (folder / "serving").write_text("6\n")
        program = folder / "edgecl-device"
        program.write_text(FAKE)
        program.chmod(0o755)

    def run(self, state: str) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": f"{self.folder}:/usr/bin:/bin",
            "FAKE": str(self.folder),
            "EDGECL_STORE": "S",
        }
        module = ROOT / "mender" / "edgecl"
        return subprocess.run(
            [module, state, self.files], env=env, capture_output=True, text=True, timeout=30
        )

    def read(self, name: str) -> str:
        return (self.folder / name).read_text().strip()


@pytest.fixture
def mender(tmp_path):
    return Mender(tmp_path)


def test_the_mender_module_is_short_and_executable():
    module = ROOT / "mender" / "edgecl"
    assert module.stat().st_mode & stat.S_IXUSR
    assert len(module.read_text().splitlines()) < 100


def test_mender_installs_and_commits(mender):
    assert mender.run("SupportsRollback").stdout == "Yes\n"
    assert mender.run("NeedsArtifactReboot").stdout == "No\n"
    for state in ("Download", "ArtifactInstall", "ArtifactCommit", "Cleanup"):
        assert mender.run(state).returncode == 0, state
    assert mender.read("serving") == "7"
    assert "rollback" not in mender.read("calls")


@pytest.mark.parametrize("status", [11, 21, 26, 27])
def test_mender_gets_the_failure_and_the_pin_goes_back(mender, status):
    (mender.folder / "status").write_text(str(status))
    assert mender.run("ArtifactInstall").returncode == 1
    assert mender.run("ArtifactRollback").returncode == 0
    assert mender.read("serving") == "6"
    assert mender.read("pinned") == "6"
    assert "rollback" not in mender.read("calls")  # the device undid it, or never took it


def test_mender_can_undo_what_the_device_kept(mender):
    mender.run("ArtifactInstall")
    assert mender.run("ArtifactRollback").returncode == 0
    assert (mender.read("serving"), mender.read("pinned")) == ("6", "6")
    assert "rollback S" in mender.read("calls")


def test_an_interrupted_install_is_done_again(mender):
    mender.run("ArtifactInstall")
    assert mender.run("ArtifactInstall").returncode == 0  # the power went before Mender noted it
    mender.run("ArtifactRollback")
    assert mender.read("pinned") == "6"


def test_mender_commits_only_what_serves(mender):
    assert mender.run("ArtifactCommit").returncode != 0


def test_an_artifact_without_a_release_is_refused(mender):
    (mender.files / "header" / "meta-data").write_text("{}")
    result = mender.run("ArtifactInstall")
    assert result.returncode != 0
    assert "meta-data must be" in result.stderr
    assert not (mender.folder / "pinned").exists()

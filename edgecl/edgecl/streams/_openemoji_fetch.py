"""Fetch OpenEmoji-10: ten npm packages of icons, verified, rasterised once and cached.

Every file is written whole, so an interrupted fetch continues with the verified packages and the
finished styles that it has.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecl.cache import cache_dir
from edgecl.streams._errors import StreamError
from edgecl.streams._iconify import IconSet, rasterise
from edgecl_deploy.children import program
from edgecl_deploy.manifest.whole import whole_file, write_whole

PINS = Path(__file__).parent / "data" / "openemoji10.json"
MIN_STYLES = 5  # that a concept is drawn in, at least
MAX_MEMBER = 256 * 1024 * 1024  # bytes of one JSON file inside a package
EPOCH = (1980, 1, 1, 0, 0, 0)  # zip members carry no date, so that bytes are reproducible
Progress = Callable[[str, int, int], None]  # what is being done, done so far, of how many


@dataclass(frozen=True)
class Style:
    """One pinned package: an art style, a domain of OpenEmoji-10."""

    style: str
    package: str
    version: str
    integrity: str  # npm's: sha512-<base64> of the .tgz
    sha256: str  # of the same file
    bytes: int
    license: str  # SPDX
    author: str
    url: str
    title: str

    @property
    def file(self) -> str:
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


def styles() -> tuple[Style, ...]:
    """Return the ten pinned styles, in the set's own order."""
    return tuple(Style(**entry) for entry in json.loads(PINS.read_bytes())["styles"])


def openemoji10_folder(folder: Path | None = None) -> Path:
    """Return the folder of the rasterised set; other pins have another folder."""
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    return (folder or cache_dir()) / "openemoji10" / pins


def fetch_openemoji10(root: Path | None = None, progress: Progress | None = None) -> Path:
    """Download, verify, rasterise and cache OpenEmoji-10; return its folder.

    About 29 MB are downloaded and 80 MB stored; it takes two minutes. A complete folder is left
    alone. It needs npm (for packages that are not in the cache) and edgecl[data].
    """
    folder = openemoji10_folder(root)
    index = folder / "index.json"
    if index.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    tell = progress or (lambda *_: None)
    size = json.loads(PINS.read_bytes())["size"]
    sets = {}
    for done, style in enumerate(styles()):
        tell(f"package {style.package}", done, len(styles()))
        sets[style.style] = read_package(fetch_package(style, folder.parent / "packages"))
    concepts = find_concepts(sets)
    total = sum(len(found) for found in concepts.values())
    done = 0
    for prefix, icons in sets.items():
        names = sorted(name for name, found in concepts.items() if prefix in found)
        _rasterise_style(icons, names, size, folder / f"{prefix}.zip", tell, done, total)
        done += len(names)
    tell("rasterised", total, total)
    content = {
        "format": "edgecl-openemoji10/1",
        "size": size,
        "concepts": {
            name: {"group": concept_group(sets, name), "styles": sorted(found)}
            for name, found in sorted(concepts.items())
        },
    }
    write_whole(index, json.dumps(content, indent=1).encode())
    return folder


def find_concepts(sets: Mapping[str, IconSet]) -> dict[str, set[str]]:
    """Return the styles of each concept: of icon names without skin tone, in MIN_STYLES styles."""
    found: dict[str, set[str]] = {}
    for style, icons in sets.items():
        for name in icons.icons:
            if "skin-tone" not in name:
                found.setdefault(name, set()).add(style)
    return {name: where for name, where in found.items() if len(where) >= MIN_STYLES}


def concept_group(sets: Mapping[str, IconSet], name: str) -> str | None:
    """Return the Unicode group of a concept in Noto, else in Twemoji, else in OpenMoji."""
    for style in ("noto", "twemoji", "openmoji"):
        if group := sets[style].groups.get(name):
            return group
    return None


def concept_digest(name: str) -> int:
    """Return the md5 of a concept's name as a number, by which concepts are ordered and divided."""
    return int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16)


def is_unseen(name: str) -> bool:
    """Return whether a concept is for continual-learning streams only, not for pre-training."""
    return concept_digest(name) % 10 < 4


def fetch_package(style: Style, folder: Path) -> Path:
    """Return the verified .tgz of a style, downloaded by npm unless the folder has it.

    Raises:
        StreamError: npm is missing or fails, or the bytes are not the pinned ones.
    """
    path = folder / style.file
    if path.is_file() and _verified(path, style):
        return path
    npm = program("npm")
    if npm is None:
        raise StreamError(
            f"Fetching {style.package} needs npm, which is not on the PATH. Install Node.js with "
            f"npm (Debian: apt install npm), or put {style.file} into {folder}."
        )
    work = folder / f"npm-{os.getpid()}"
    work.mkdir(parents=True, exist_ok=True)
    try:
        command = [npm, "pack", f"{style.package}@{style.version}", "--ignore-scripts", "--silent"]
        run = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)  # noqa: S603 (pinned arguments)
        packed = work / style.file
        if run.returncode != 0 or not packed.is_file():
            tail = run.stderr.strip().splitlines()[-1:] or ["no output"]
            raise StreamError(
                f"npm must pack {style.package}@{style.version}; it returned {run.returncode} "
                f"({tail[0]}). Check the network and npm's registry setting, then run again."
            )
        if not _verified(packed, style):
            raise StreamError(
                f"{style.file} must have the pinned digest {style.sha256}; npm gave other bytes, "
                "which were deleted. Check npm's registry setting."
            )
        packed.replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def _verified(path: Path, style: Style) -> bool:
    data = path.read_bytes()
    sha512 = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    return sha512 == style.integrity and hashlib.sha256(data).hexdigest() == style.sha256


def read_package(path: Path) -> IconSet:
    """Read the icon set of a verified .tgz without extracting it.

    Raises:
        StreamError: a file is missing or larger than MAX_MEMBER.
    """
    parts = []
    with tarfile.open(path) as archive:
        for name in ("package/icons.json", "package/metadata.json"):
            member = archive.extractfile(name)
            data = b"" if member is None else member.read(MAX_MEMBER + 1)
            if not 0 < len(data) <= MAX_MEMBER:
                raise StreamError(
                    f"{path} must hold {name} of at most {MAX_MEMBER} bytes; it does not. "
                    "Delete it and fetch again."
                )
            parts.append(data)
    return IconSet.parse(*parts)


def _rasterise_style(
    icons: IconSet, names: list[str], size: int, path: Path, tell: Progress, done: int, total: int
) -> None:
    if path.is_file():  # it is whole
        return
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for i, name in enumerate(names):
            if i % 50 == 0:
                tell(f"rasterising {icons.prefix}", done + i, total)
            png = rasterise(icons.svg(name, size))  # stored as it is: PNG is compressed
            archive.writestr(zipfile.ZipInfo(f"{name}.png", EPOCH), png)


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a fetched set.

    Raises:
        StreamError: the set has not been fetched.
    """
    index = folder / "index.json"
    if not index.is_file():
        raise StreamError(
            f"OpenEmoji-10 must be fetched once; {folder} is not complete. "
            "Run: edgecl data fetch openemoji10"
        )
    content: dict[str, Any] = json.loads(index.read_bytes())
    return content

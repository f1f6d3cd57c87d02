"""Reads and writes the directories on disk; `edgecl_deploy.format` checks what is in them.

Laws: nothing but plain files is opened, and no link followed; sizes are known before a byte is
read; every byte is checked against its digest; a directory appears complete or not at all.
"""

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgecl_deploy.errors import (
    DeployError,
    DigestError,
    MissingFileError,
    SizeError,
    SymlinkError,
    TargetExistsError,
    one_line,
)
from edgecl_deploy.format import (
    Build,
    Bundle,
    FileRef,
    Pack,
    PackIndex,
    Preprocessing,
    Program,
    Release,
    check_release,
    check_tensors,
    check_transfer,
    digest,
    parse_bundle,
    parse_index,
    parse_pack,
    parse_release,
    verify,
)
from edgecl_deploy.format._tensors import HEAD
from edgecl_deploy.manifest import limits
from edgecl_deploy.manifest.whole import whole_folder

BUNDLE_FILE = "bundle.json"
RELEASE_FILE = "release.json"
INDEX_FILE = "index.json"
PACKS = "packs"
BLOBS = "blobs"
_LOG = logging.getLogger(__name__)
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # of this process, not of a file
_CHUNK = 1024 * 1024  # bytes read at a time while hashing
_COPY = "Copy the whole directory again from where it was published."


def is_passing(error: BaseException | None) -> bool:
    """Return whether an error comes from a shortage of this process, and says nothing of a file."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class BundleFiles:
    """A bundle on disk."""

    path: Path
    bundle: Bundle
    digest: str  # of bundle.json

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for its programs."""
        return self.bundle.preprocessing

    def check(self, files: "ReleaseFiles") -> Program:
        """Check that a release belongs to this bundle, and return its program."""
        return check_release(self.bundle, files.release, files.packs)

    def verify(self, builds: Sequence[Build], form: str) -> None:
        """Hash the weights and the graphs of one form, a megabyte at a time, each file once.

        Args:
            builds: A program in some precisions; the files of others are not read.
            form: `fused` or `staged`.
        """
        refs = {build.weights.file: build.weights for build in builds}
        for program in (build.program for build in builds):
            for ref in program.files():
                if (ref == program.fused) == (form == "fused"):
                    refs[ref.file] = ref
        self.verify_files(list(refs.values()))

    def verify_files(self, refs: Sequence[FileRef] | None = None) -> None:
        """Hash files of the bundle, and look for one that is loaded and not listed.

        Args:
            refs: The files; None for all of them.
        """
        refs = self.bundle.files() if refs is None else refs
        for ref in refs:
            verify_file(self.path, ref)
        self._check_listed(refs)

    def _check_listed(self, refs: Sequence[FileRef]) -> None:
        """Check that no graph names a file of this folder that bundle.json does not list.

        An engine would load the data of such a file, and nobody has hashed it.

        Raises:
            DigestError: One does.
        """
        listed = {ref.file for ref in self.bundle.files()} | {BUNDLE_FILE}
        others = sorted(os.fsencode(name) for name in set(os.listdir(self.path)) - listed)
        if not others:
            return
        for ref in refs:
            if ref.file.endswith(".onnx"):
                graph = read_file(self.path / ref.file, ref.size)
                for name in others:
                    if name in graph:
                        raise DigestError(
                            f"bundle.json must list every file that {ref.file} names",
                            f"{os.fsdecode(name)}, which it does not list",
                            "Install the bundle again; export it again if that changes nothing.",
                        )


@dataclass(frozen=True)
class ReleaseFiles:
    """A release in memory: manifests parsed, every byte verified."""

    release: Release
    digest: str  # of release.json
    packs: tuple[Pack, ...]
    manifests: Mapping[str, bytes]  # by pack id
    blobs: Mapping[str, bytes]  # by digest; with the factor of `enrolment` where it is at hand


def read_bundle(path: str | os.PathLike[str]) -> BundleFiles:
    """Read the manifest of a bundle, and check that its files are there in their sizes.

    Raises:
        SizeError: A file is shorter or longer than in the manifest.
    """
    folder = Path(path)
    data = read_file(folder / BUNDLE_FILE, limits.MAX_MANIFEST)
    bundle = parse_bundle(data)
    for ref in bundle.files():
        with _opened(folder / ref.file) as (_, size):
            if size != ref.size:
                raise SizeError(f"{ref.file} must have {ref.size} bytes", f"{size}", _COPY)
    return BundleFiles(folder, bundle, digest(data))


def verify_file(folder: Path, ref: FileRef) -> None:
    """Hash one file of a bundle without holding it in memory.

    Raises:
        SizeError: It is shorter or longer than in the manifest.
        DigestError: It holds other bytes.
    """
    hasher = hashlib.sha256()
    with _opened(folder / ref.file) as (file, size):
        if size != ref.size:
            raise SizeError(f"{ref.file} must have {ref.size} bytes", f"{size}", _COPY)
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    if hasher.hexdigest() != ref.sha256:
        raise DigestError(
            f"{ref.file} must have the SHA-256 {ref.sha256}", hasher.hexdigest(), _COPY
        )


def read_release(path: str | os.PathLike[str]) -> ReleaseFiles:
    """Read a release directory, all of it."""
    folder = Path(path)
    return _assemble(read_file(folder / RELEASE_FILE, limits.MAX_MANIFEST), _Folder(folder))


def read_objects(folder: Path, release: str) -> ReleaseFiles:
    """Read a release from a folder of objects, each named by its digest.

    Args:
        release: The digest of release.json.
    """
    data = read_file(folder / release, limits.MAX_MANIFEST)
    verify(data, release, None, f"{folder.name}/{release}")
    return _assemble(data, _Objects(folder))


def read_packs(path: str | os.PathLike[str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Read a packs directory, as `edgecl export pack` writes it.

    Returns:
        The manifests by pack id, in the order of the tasks, and the blobs by digest.
    """
    folder = Path(path)
    index = parse_index(read_file(folder / INDEX_FILE, limits.MAX_MANIFEST))
    manifests = _read_manifests(_Folder(folder), index.packs)
    packs = [parse_pack(data) for data in manifests.values()]
    return manifests, _read_blobs(_Folder(folder), blob_sizes(None, packs))


def blob_sizes(release: Release | None, packs: Sequence[Pack]) -> dict[str, int]:
    """Return the blobs of packs, and those of the release itself.

    Args:
        release: The release, if there is one.

    Returns:
        The bytes of each blob by digest.

    Raises:
        SizeError: Two manifests hold different sizes.
    """
    own = [] if release is None else [release.blobs]
    sizes: dict[str, int] = {}
    for name, size in (item for each in (*own, *(p.blobs for p in packs)) for item in each.items()):
        if sizes.setdefault(name, size) != size:
            raise SizeError(
                f"the blob {name} must have the same size in every manifest",
                f"{sizes[name]} and {size} bytes",
                "Do not use this release: its manifests were not made together.",
            )
    return sizes


def check_blob(path: Path) -> None:
    """Check the header of a safetensors file without reading its data."""
    with _opened(path) as (file, size):
        check_tensors(file.read(HEAD), size)


@dataclass(frozen=True)
class _Folder:
    """A release or packs directory: manifests and blobs in folders of their own."""

    path: Path

    def manifest(self, name: str) -> Path:
        return self.path / PACKS / f"{name}.json"

    def blob(self, name: str) -> Path:
        return self.path / BLOBS / f"{name}.safetensors"


@dataclass(frozen=True)
class _Objects:
    """A folder of objects: every file by its digest."""

    path: Path

    def manifest(self, name: str) -> Path:
        return self.path / name

    blob = manifest


def _assemble(data: bytes, layout: _Folder | _Objects) -> ReleaseFiles:
    release = parse_release(data)
    manifests = _read_manifests(layout, release.packs)
    packs = tuple(parse_pack(manifests[name]) for name in release.packs)
    blobs = _read_blobs(layout, blob_sizes(release, packs))
    factor = release.enrolment
    if factor is not None and os.path.lexists(layout.blob(factor.blob)):
        try:
            blobs |= _read_blobs(layout, {factor.blob: factor.bytes})
        except DeployError as error:  # the release answers without it
            _LOG.warning("factor-damaged: no class can be enrolled: %s", error)
    return ReleaseFiles(release, digest(data), packs, manifests, blobs)


def _read_manifests(layout: _Folder | _Objects, ids: Sequence[str]) -> dict[str, bytes]:
    manifests, total = {}, 0
    for name in ids:
        path = layout.manifest(name)
        _check_folder(path.parent)
        manifests[name] = read_file(path, limits.MAX_PACK_MANIFEST)
        total += len(manifests[name])
        check_transfer(manifests=total)
        verify(manifests[name], name, None, f"{path.parent.name}/{path.name}")
    return manifests


def _read_blobs(layout: _Folder | _Objects, sizes: Mapping[str, int]) -> dict[str, bytes]:
    check_transfer(blobs=sum(sizes.values()))
    blobs = {}
    for name, size in sizes.items():
        path = layout.blob(name)
        _check_folder(path.parent)
        blobs[name] = read_file(path, size)
        verify(blobs[name], name, size, f"{path.parent.name}/{path.name}")
    return blobs


def write_release(
    path: str | os.PathLike[str],
    release: Release,
    manifests: Mapping[str, bytes],
    blobs: Mapping[str, bytes],
) -> str:
    """Write a release directory; it appears complete or not at all.

    Args:
        path: The directory to make. If it holds this very release already, nothing happens.
        manifests: Its packs by id.
        blobs: All blobs of its packs and canaries by digest.

    Returns:
        The digest of the release.
    """
    data = release.to_bytes()
    _write_folder(Path(path), {RELEASE_FILE: data}, manifests, blobs)
    return digest(data)


def write_packs(
    path: str | os.PathLike[str], manifests: Mapping[str, bytes], blobs: Mapping[str, bytes]
) -> None:
    """Write a packs directory; it appears complete or not at all.

    Args:
        path: The directory to make.
        manifests: The packs by id, in the order of the tasks.
        blobs: Their blobs by digest.
    """
    index = PackIndex(tuple(manifests)).to_bytes()
    _write_folder(Path(path), {INDEX_FILE: index}, manifests, blobs)


def _write_folder(
    target: Path,
    top: Mapping[str, bytes],
    manifests: Mapping[str, bytes],
    blobs: Mapping[str, bytes],
) -> None:
    if os.path.lexists(target):
        if all((target / name).is_file() for name in top) and all(
            read_file(target / name, limits.MAX_MANIFEST) == data for name, data in top.items()
        ):
            return
        raise TargetExistsError(
            f"{target.name} must not exist yet, or hold exactly what is written",
            "something else",
            "Write to a new directory, or remove the old one first.",
        )
    with whole_folder(target) as temporary:
        for folder, suffix, files in ((PACKS, ".json", manifests), (BLOBS, ".safetensors", blobs)):
            (temporary / folder).mkdir()
            for name, data in files.items():
                verify(data, name, None, f"{folder}/{name}{suffix}")
                (temporary / folder / f"{name}{suffix}").write_bytes(data)
        for name, data in top.items():
            (temporary / name).write_bytes(data)


def _check_folder(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise _missing(path, error) from error
    if not stat.S_ISDIR(mode):
        raise _not_plain(path, "folder")


def _missing(path: Path, error: OSError) -> MissingFileError:
    return MissingFileError(
        f"{path.parent.name}/{path.name} must be there and readable", one_line(error), _COPY
    )


def _not_plain(path: Path, what: str) -> SymlinkError:
    return SymlinkError(
        f"{path.parent.name}/{path.name} must be a plain {what}",
        "a link, or something else that is none",
        "Do not use this directory: copy the real files, without links.",
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    # O_NOFOLLOW: a link is refused by the open itself, so nobody can put one in between.
    # O_NONBLOCK: a named pipe must not hang the process.
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise _not_plain(path, "file")
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise _not_plain(path, "file") from error
        if error.errno in _PASSING:
            raise
        raise _missing(path, error) from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise _not_plain(path, "file")
    with os.fdopen(handle, "rb") as file:
        try:
            yield file, status.st_size
        except OSError as error:  # a bad sector
            raise _missing(path, error) from error


def read_file(path: Path, largest: int) -> bytes:
    """Read a plain file whole.

    Args:
        path: The file; no link is followed.
        largest: How many bytes it may have.

    Raises:
        SizeError: It has more.
    """
    with _opened(path) as (file, size):
        if size > largest:
            raise SizeError(
                f"{path.parent.name}/{path.name} must have at most {largest} bytes",
                f"{size}",
                _COPY,
            )
        return file.read(largest)

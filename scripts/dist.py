"""Build the three distributions of the last commit into dist/, and try them as a user would.

Wheels and sdists are built twice, in two folders with different names, permissions and file times,
the first wheel from its sdist, the second from the tree; the digests must agree. Then the metadata
is checked, a device is installed by the digests of deploy/requirements.txt and described by a bill
of materials, the wheels are installed in a new environment, and README's tour runs there.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from readme_parts import part, run

ROOT = Path(__file__).parents[1]
FOLDERS = ("deploy", "edgecl", "export")
OURS = ("edgecl*.whl", "edgecl*.tar.gz", "sbom-edgecl*.json")  # what is replaced in dist/
PARTS = ("tour", "fleet")  # what needs no extra
MOST_SECONDS = 1800  # of a part: half a minute to minutes on two idle cores
EXTRAS = {"by-name": "clip"}  # of edgecl, by part


def tool(*command: str, **options: Any) -> str:
    """Run a command of the developer's environment; return what it prints, or end with it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)} must succeed, but:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def git(*command: str) -> str:
    """Run git in the repository."""
    return tool("git", "-C", str(ROOT), *command)


def checkout(commit: str, folder: Path, umask: int, kept_times: bool) -> None:
    """Write the files of a commit into a folder."""
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar")
    git("archive", f"--output={archive}", commit)
    how = ["--no-same-permissions"] + ([] if kept_times else ["--touch"])
    tool("tar", "-x", "-f", str(archive), *how, "-C", str(folder), umask=umask)


def build(tree: Path, out: Path, epoch: str, *forms: str) -> dict[str, str]:
    """Build every distribution of a tree; return the digests by file name.

    Args:
        epoch: seconds since 1970 that the archives' members have.
        forms: options of `build`; none builds the wheel from the sdist.
    """
    environment = os.environ | {"SOURCE_DATE_EPOCH": epoch}
    for folder in FOLDERS:
        command = [
            sys.executable,
            "-I",
            "-m",
            "build",
            "--no-isolation",
            *forms,
            "--outdir",
            str(out),
        ]
        tool(*command, str(tree / folder), env=environment)
    return {file.name: digest(file) for file in sorted(out.iterdir())}


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def build_twice(commit: str, scratch: Path) -> Path:
    """Build a commit in two ways; return the folder of the first, or end if a file differs."""
    epoch = git("log", "-1", "--format=%ct", commit)
    first, second = scratch / "first", scratch / "a folder with another name" / "second"
    checkout(commit, first, umask=0o022, kept_times=True)
    checkout(commit, second, umask=0o077, kept_times=False)
    from_sdist = build(first, scratch / "dist", epoch)
    from_tree = build(second, scratch / "again", epoch, "--sdist", "--wheel")
    others = sorted(name for name in from_sdist | from_tree
                    if from_sdist.get(name) != from_tree.get(name))  # fmt: skip
    if others:
        sys.exit(
            f"Two builds must give the same bytes, but {', '.join(others)} differ. "
            f"Compare {scratch / 'dist'} with {scratch / 'again'} (--keep leaves them)."
        )
    return scratch / "dist"


def replace(built: Path, out: Path) -> list[Path]:
    """Move what was built to where it belongs, in place of what was there."""
    out.mkdir(parents=True, exist_ok=True)
    for old in [each for form in OURS for each in out.glob(form)]:
        old.unlink()
    files = sorted(built.iterdir())
    tool("cp", *map(str, files), str(out))
    return [out / file.name for file in files]


def install(files: list[Path], extras: list[str], folder: Path) -> Path:
    """Install the wheels, as files, in a new environment; return its interpreter.

    Args:
        extras: of `edgecl`.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-I", "-m", "pip", "--disable-pip-version-check"]
    wanted = {"edgecl": extras, "edgecl_export": ["torch"]}
    chosen = []
    for file in files:
        if file.suffix == ".whl":
            names = wanted.get(file.name.partition("-")[0])
            chosen.append(f"{file}[{','.join(names)}]" if names else str(file))
    tool(
        *pip, "install", "--no-compile", "--constraint", str(ROOT / "constraints.txt"),
        "--find-links", str(files[0].parent), *chosen,
    )  # fmt: skip
    tool(*pip, "check")
    return python


def install_device(files: list[Path], folder: Path) -> Path:
    """Install a device as its documents say, every package by its digest; return the interpreter.

    No pip is installed there: what is there is what a device gets.
    """
    venv.create(folder)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--python"]
    wheel = next(file for file in files if file.match("edgecl_deploy-*.whl"))
    wanted = str(ROOT / "deploy" / "requirements.txt")
    tool(*pip, str(python), "install", "--no-compile", "--require-hashes", "-r", wanted)
    tool(*pip, str(python), "install", "--no-compile", "--no-deps", str(wheel))
    tool(*pip, str(python), "check")
    return python


def describe(python: Path, file: Path) -> Path:
    """Write what an environment holds as a CycloneDX bill of materials."""
    made = [sys.executable, "-I", "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    pyproject = str(ROOT / "deploy" / "pyproject.toml")
    tool(*made, "--of", "JSON", "--pyproject", pyproject, "-o", str(file), str(python))
    return file


def try_part(name: str, folder: Path, python: Path) -> None:
    """Run a part of README.md with what is installed, or end with what it printed."""
    try:
        run(part(name), folder, python, seconds=MOST_SECONDS)
    except RuntimeError as error:
        sys.exit(f"README's {name} must run where only the wheels are installed, but: {error}")


def distribute(out: Path, parts: list[str], scratch: Path) -> dict[str, Any]:
    """Do all of it; return what was measured."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[step] = round(time.perf_counter() - began, 1)
        print(f"{step}: {seconds[step]} s", file=sys.stderr, flush=True)

    commit = git("rev-parse", "HEAD")
    if git("status", "--porcelain"):
        print("There are changes that are not committed; they are not built.", file=sys.stderr)
    with timed("build twice"):
        built = build_twice(commit, scratch)
    with timed("check the metadata"):
        tool(sys.executable, "-I", "-m", "twine", "check", "--strict", *map(str, built.iterdir()))
        files = replace(built, out)
    with timed("install a device by digests"):
        version = (ROOT / "VERSION").read_text().strip()
        python = install_device(files, scratch / "device")
        files.append(describe(python, out / f"sbom-edgecl-deploy-{version}.cdx.json"))
    if parts:
        with timed("install"):
            extras = [EXTRAS[name] for name in parts if name in EXTRAS]
            python = install(files, extras, scratch / "environment")
        (scratch / "tour").mkdir()
        for name in parts:
            with timed(f"README's {name}"):
                try_part(name, scratch / "tour", python)
    return {
        "version": (ROOT / "VERSION").read_text().strip(),
        "commit": commit,
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": digest(file)} for file in files
        },
        "seconds": seconds,
    }


def show(measured: Mapping[str, Any]) -> None:
    """Print what was measured."""
    print(f"edgecl {measured['version']} of commit {measured['commit']}")
    for name, file in measured["files"].items():
        print(f"{file['sha256']}  {file['bytes']:>9,} bytes  {name}")
    print(", ".join(f"{step} {taken} s" for step, taken in measured["seconds"].items()))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the files")
    parser.add_argument(
        "--parts", nargs="*", default=PARTS, choices=[*PARTS, *EXTRAS],
        help="parts of README.md to run in a new environment; none: build and check only",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")
    options = parser.parse_args()
    os.environ.pop("PYTHONPATH", None)  # the new environment has what was installed, no more
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        scratch = options.keep or Path(folder)
        scratch.mkdir(parents=True, exist_ok=True)
        measured = distribute(options.out, list(options.parts), scratch.resolve())
    if options.json:
        print(json.dumps(measured, indent=1))
    else:
        show(measured)


if __name__ == "__main__":
    main()

"""The command line that tuf-conformance drives, through `Trust`: lock, fetcher, fsync and floor.

A store is made beside the suite's metadata folder, and its `tuf/` is that folder.
"""

import argparse
import fcntl
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError

from edgecl_deploy.errors import DeployError
from edgecl_deploy.store.disk import Disk
from edgecl_deploy.update.trust import Trust


def trust_of(store: Path, arguments: argparse.Namespace) -> Trust:
    site, _, end = arguments.metadata_url.rstrip("/").rpartition("/")
    if end != "metadata" or (arguments.target_base_url or f"{site}/targets").rstrip("/") != (
        f"{site}/targets"
    ):
        raise SystemExit("metadata/ and targets/ must lie side by side")
    return Trust(store, (store / "root.json").read_bytes(), site)


def init(store: Path, arguments: argparse.Namespace) -> None:
    store.mkdir()
    (store / "tuf").symlink_to(Path(arguments.metadata_dir).absolute())
    Disk().replace(store / "root.json", Path(arguments.trusted_root).read_bytes())
    shutil.copyfile(arguments.trusted_root, store / "tuf" / "root.json")


def refresh(store: Path, arguments: argparse.Namespace) -> None:
    trust_of(store, arguments).refresh()


def download(store: Path, arguments: argparse.Namespace) -> None:
    trust = trust_of(store, arguments)
    trust.refresh()
    for name in arguments.target_name:
        info = trust.find(name)
        kept = Path(arguments.target_dir, quote(name, ""))
        if kept.exists():
            with kept.open("rb") as file:
                try:
                    info.verify_length_and_hashes(file)
                    continue
                except LengthOrHashMismatchError:
                    pass
        staged = store / "staging" / "new"
        trust.download(info, staged)
        Disk().publish(staged, kept)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", required=True)
    for name in ("--metadata-url", "--target-dir", "--target-base-url"):
        parser.add_argument(name)
    parser.add_argument("--target-name", action="append", default=[])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    arguments = parser.parse_args()
    store = Path(arguments.metadata_dir).absolute().parent / "store"
    run = {"init": init, "refresh": refresh, "download": download}[arguments.command]
    with Path(f"{store}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            run(store, arguments)
        except DeployError as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write what a release of the version in VERSION says of itself.

CHANGELOG.md: the fragments of changelog.d/ are compiled with towncrier and removed. If the version
has a section already, as when it was prepared before and not tagged, the fragments come below what
it says. CITATION.cff: version and date. benchmarks/history.jsonl: the headline figures.
"""

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKER = "<!-- towncrier release notes start -->\n"


def run(*command: str, folder: Path = ROOT) -> None:
    """Run a Python program of the developer's environment, or end with its exit status."""
    done = subprocess.run([sys.executable, *command], cwd=folder, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def compile_changelog(folder: Path, version: str, date: str) -> None:
    """Compile the fragments in a folder with CHANGELOG.md, pyproject.toml and changelog.d/."""
    file = folder / "CHANGELOG.md"
    before, said, after = split(file.read_text(encoding="utf-8"), version)
    fragments = list((folder / "changelog.d").glob("*.*.md"))
    if not fragments and not said:
        sys.exit(
            f"A release must have something to say, but changelog.d/ is empty and CHANGELOG.md has "
            f"no section {version}. Add fragments, or write another version into VERSION."
        )
    file.write_text(before + after, encoding="utf-8")
    if fragments:
        run("-I", "-m", "towncrier", "build", "--yes", "--version", version, "--date", date,
            folder=folder)  # fmt: skip
    compiled, new, after = split(file.read_text(encoding="utf-8"), version)
    parts = [f"## {version} ({date})", said, new, after.strip()]
    text = compiled.rstrip() + "\n\n" + "\n\n".join(part for part in parts if part) + "\n"
    file.write_text(text, encoding="utf-8")


def split(changelog: str, version: str) -> tuple[str, str, str]:
    """Return what comes before a version's section, the section without its heading, and the rest.

    Without the section everything up to the marker comes before, and the others are the rest.
    """
    head, marker, sections = changelog.partition(MARKER)
    if not marker:
        sys.exit(f"CHANGELOG.md must have the line {MARKER.strip()}, found none. Put it back.")
    each = re.split(r"(?m)^(?=## )", sections)
    own = [part for part in each if part.startswith(f"## {version} (")]
    rest = "".join(part for part in each if part not in own)
    return head + marker, "".join(part.partition("\n")[2] for part in own).strip(), rest


def cite(file: Path, version: str, date: str) -> None:
    """Write the version and the date into CITATION.cff."""
    text = file.read_text(encoding="utf-8")
    for key, value in (("version", version), ("date-released", date)):
        text, found = re.subn(rf"(?m)^{key}: .*$", f"{key}: {value}", text)
        if found != 1:
            sys.exit(f"{file.name} must have one line `{key}: ...`, found {found}. Put it back.")
    file.write_text(text, encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    parser.add_argument("--date", default=today, help="of the release, YYYY-MM-DD; today")
    date = parser.parse_args().date
    version = (ROOT / "VERSION").read_text().strip()
    compile_changelog(ROOT, version, date)
    cite(ROOT / "CITATION.cff", version, date)
    run(str(ROOT / "benchmarks" / "history.py"), "record", version, date)


if __name__ == "__main__":
    main()

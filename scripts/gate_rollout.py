"""Halt a roll-out when devices of the canary group see drift with its release.

    python scripts/gate_rollout.py canary --site site --keys keys reports/*.json

A report is what `edgecl-device drift STORE --json` prints on a device; how they come here is the
fleet's own. Those of another release than the channel's do not count; of two reports of one device
the one with an alarm does, else the last one. The channel is halted if more than `--most-alarms`
devices have an alarm that their camera does not explain.

Exit status: 0 the release may go on, since enough devices have tested enough images; 3 wait for
more; 4 the channel is halted; 1 a failure; 2 a wrong command line.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LARGEST = 1024 * 1024  # bytes of a report
QUIET, WAIT, HALTED = 0, 3, 4


@dataclass(frozen=True)
class Report:
    """What a device said.

    Attributes:
        device: Its id.
        release: What answered.
        tested: Images whose typicality was counted: none if the packs have no scores.
        alarm: Whether there is one.
        cause: Of it.
    """

    device: str
    release: int
    tested: int
    alarm: bool
    cause: str

    @property
    def drifts(self) -> bool:
        """Whether there is an alarm that the camera does not explain."""
        return self.alarm and self.cause != "camera"

    @property
    def rank(self) -> tuple[bool, bool]:
        """How much it weighs against another report of the same device."""
        return self.drifts, self.alarm

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Read a report.

        Raises:
            ValueError: It is none.
        """
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        try:
            found = json.loads(data)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        kinds = {"device": str, "version": str, "alarm": bool, "cause": str}
        for key, kind in kinds.items():
            if not isinstance(found, dict) or type(found.get(key)) is not kind:
                raise ValueError(f"it must be what `edgecl-device drift --json` prints; no {key}")
        release = int(found["version"].partition(".")[0])
        tested = _tested(found.get("histogram"))
        return cls(found["device"], release, tested, found["alarm"], found["cause"])


def _tested(histogram: object) -> int:
    """Return how many images were tested; a device shows no histogram of fewer than 20.

    Raises:
        ValueError: It is no histogram.
    """
    counts = [] if histogram is None else histogram
    if not isinstance(counts, list) or any(type(each) is not int or each < 0 for each in counts):
        raise ValueError("its histogram must be null or a list of counts")
    return sum(counts)


def main() -> int:
    """Run the script; return its exit status."""
    wish = _parser().parse_args()
    place = ["--site", wish.site, "--keys", wish.keys, "--json"]
    release, halted = _channel(wish.edgecl, wish.channel, place)
    reports, wrong = _reports(wish.reports, release)
    alarms = sorted(each.device for each in reports if each.drifts)
    quiet = [each for each in reports if not each.alarm and each.tested >= wish.least_images]
    code = QUIET if len(quiet) >= wish.least_devices else WAIT
    if halted or len(alarms) > wish.most_alarms:
        code = HALTED
    if code == HALTED and not halted and not wish.dry_run:
        _edgecl(wish.edgecl, ["halt", wish.channel, *place], (0,))
    words = {QUIET: "may go on", WAIT: "waits for more images", HALTED: "is halted"}
    said = {
        "channel": wish.channel,
        "release": release,
        "result": words[code],
        "devices": len(reports),
        "quiet": len(quiet),
        "alarms": alarms,
        "unread": wrong,
    }
    print(json.dumps(said))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Halt a roll-out when its devices see drift.")
    parser.add_argument("channel", help="The channel of the canary group.")
    parser.add_argument("reports", nargs="+", type=Path, help="One file for each device.")
    parser.add_argument("--site", default="site")
    parser.add_argument("--keys", default="keys")
    parser.add_argument("--most-alarms", type=int, default=0, help="Devices. [default: 0]")
    parser.add_argument(
        "--least-devices", type=int, default=1, help="That tested enough images. [default: 1]"
    )
    parser.add_argument(
        "--least-images", type=int, default=500,
        help="That a device tested; under 20 it reports none. [default: 500]",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="Halt nothing.")
    beside = Path(sys.executable).with_name("edgecl")
    parser.add_argument(
        "--edgecl", default=str(beside) if beside.exists() else "edgecl", help="The command."
    )
    return parser


def _channel(edgecl: str, name: str, place: list[str]) -> tuple[int, bool]:
    """Return the release of a channel, and whether it is halted.

    Raises:
        SystemExit: There is no such channel.
    """
    found = json.loads(_edgecl(edgecl, ["status", *place], (0, 3, 4)))
    for each in found["channels"]:
        if each["name"] == name:
            return each["release"], each["halted"]
    raise SystemExit(f"the site must have the channel {name}; found none of that name")


def _edgecl(edgecl: str, words: list[str], good: tuple[int, ...]) -> str:
    """Run `edgecl channel` and return what it printed.

    Raises:
        SystemExit: It failed.
    """
    ran = subprocess.run(
        [edgecl, "channel", *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if ran.returncode not in good:
        raise SystemExit(f"`edgecl channel {words[0]}` must work; found status {ran.returncode}")
    return ran.stdout


def _reports(paths: list[Path], release: int) -> tuple[list[Report], dict[str, str]]:
    """Return the report of each device with a release, and why other files do not count."""
    read: list[tuple[Path, Report]] = []
    wrong: dict[str, str] = {}
    for path in paths:
        try:
            read.append((path, Report.read(path)))
        except (OSError, ValueError) as error:
            wrong[str(path)] = str(error)
    found: dict[str, tuple[Path, Report]] = {}
    for path, report in sorted(read, key=lambda each: each[1].rank):
        if report.release == release:
            if report.device in found:
                wrong[str(found[report.device][0])] = f"another report of {report.device} counts"
            found[report.device] = path, report
    return [report for _, report in found.values()], wrong


if __name__ == "__main__":
    sys.exit(main())

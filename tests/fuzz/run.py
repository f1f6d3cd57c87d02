"""`make fuzz`: atheris mutates the corpus of each target for some seconds.

What it finds to be new is stored under build/fuzz, and a crash, too;
`python tests/fuzz/run.py TARGET FILE` repeats it.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MEMORY, SLOWEST, LONGEST = 1024, 10, 20_000  # MB, seconds of one input, bytes of one input


def fuzz(name: str, *options: str) -> None:
    """Run one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["edgecl_deploy"]):
        import targets

    atheris.Setup([sys.argv[0], *options], targets.TARGETS[name])
    atheris.Fuzz()


def each(seconds: int, names: list[str]) -> int:
    """Run targets one after the other, each in a process of its own; return how many failed."""
    failed = 0
    for name in names:
        new = ROOT / "build" / "fuzz" / name
        new.mkdir(parents=True, exist_ok=True)
        limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", f"-timeout={SLOWEST}",
                  f"-max_len={LONGEST}", f"-artifact_prefix={new}/", "-verbosity=0",
                  "-print_final_stats=1"]  # fmt: skip
        corpus = [str(new), str(HERE / "corpus" / name)]
        done = subprocess.run(
            [sys.executable, str(HERE / "run.py"), name, *limits, *corpus],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        runs = [line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line]
        peak = [line.split()[-1] for line in done.stderr.splitlines() if "peak_rss_mb" in line]
        outcome = "failed" if done.returncode else "held"
        sys.stdout.write(f"{name} {outcome}: {' '.join(runs)} runs, {' '.join(peak)} MB\n")
        if done.returncode:
            failed += 1
            sys.stdout.write(done.stderr[-4000:])
        sys.stdout.flush()
    return failed


def main() -> None:
    """Run `make fuzz`, one target, or one file."""
    sys.path.insert(0, str(HERE))
    first, *rest = sys.argv[1:]
    if first.isdigit():
        import targets

        sys.exit(min(each(int(first), rest or sorted(targets.TARGETS)), 1))
    fuzz(first, *rest)


if __name__ == "__main__":
    main()

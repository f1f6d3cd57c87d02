"""The targets of `make fuzz` hold on their corpus and on mutations of it, without atheris."""

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import targets  # noqa: E402

sys.path.pop(0)
MUTATIONS = 150


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return bytes with a few small changes."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(made) + 1)
        act = draw.randrange(4)
        if act == 0 and at < len(made):
            made[at] ^= 1 << draw.randrange(8)
        elif act == 1:
            del made[at : at + draw.randint(1, 9)]
        elif act == 2:
            made[at:at] = draw.choice([b"9" * 30, b'"', b"{", b"\0", b"-1", b"null", b"@", b"\xff"])
        else:
            made[at:at] = made[at : at + draw.randint(1, 40)]
    return bytes(made)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_target_holds(name: str) -> None:
    draw = random.Random(f"edgecl {name}")  # noqa: S311
    seeds = sorted((HERE / "corpus" / name).iterdir())
    assert seeds
    assert sum(seed.stat().st_size for seed in seeds) < 50_000
    for seed in seeds:
        data = seed.read_bytes()
        targets.TARGETS[name](data)
        for _ in range(MUTATIONS):
            targets.TARGETS[name](mutated(data, draw))


@pytest.mark.parametrize("name", [*targets.WRITTEN, *targets.READ, "tensors"])
def test_a_valid_seed_is_accepted(name: str) -> None:
    """Else its mutations would try the first check of a parser alone."""
    parse = {**targets.WRITTEN, **targets.READ, "tensors": targets.formats.read_tensors}[name]
    parse((HERE / "corpus" / name / "valid").read_bytes())


def test_what_nothing_writes_is_no_round_trip() -> None:
    with pytest.raises(AttributeError, match="to_bytes"):
        targets.round_trip(lambda _: object())(b"")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_minute_of_atheris(name: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not here: `pip install --group fuzz`")
    done = subprocess.run(
        [sys.executable, str(HERE / "run.py"), "60", name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "held" in done.stdout

"""Hostile blobs that their header gives away: refused in milliseconds and a few megabytes."""

import os
import subprocess
import sys
import time

import pytest
from tests.deploy.format.test_attacks import make
from tests.deploy.support.hostile import (
    BLOBS,
    GOOD,
    PARSER_MEMORY,
    PEAK,
    QUICKLY,
    never,
    some_empty,
    some_metadata,
    with_blob,
)

from edgecl_deploy import errors
from edgecl_deploy.files import check_blob
from edgecl_deploy.format import read_tensors
from edgecl_deploy.update.outcome import Outcome

HEADED = {"some-empty": some_empty, "some-metadata": some_metadata}  # sound, as far as a header is


@pytest.mark.parametrize("name", BLOBS)
def test_a_blob_with_a_hostile_header_is_refused_before_its_test(device, name):
    data = BLOBS[name]()
    result = device.take(with_blob(device.world, data), test=never)
    assert result.outcome is Outcome.REFUSED, result.reason
    assert len(result.reason) < 1000
    assert device.after(device.source).outcome is Outcome.DENIED
    assert not os.path.exists("/tmp/edgecl-was-here")  # noqa: S108


PARSE = """
import sys, time
from pathlib import Path
from edgecl_deploy.errors import DeployError
from edgecl_deploy.files import check_blob
for name in sys.argv[1:]:
    peak()
    before = peak()
    begin = time.process_time()
    try:
        check_blob(Path(name))
        said = "sound"
    except DeployError as error:
        said = "refused"
    seconds = time.process_time() - begin
    print(Path(name).name, said, seconds, peak() - before)
"""


def test_a_hostile_header_is_refused_quickly_and_in_little_memory(tmp_path):
    made = {**BLOBS, **HEADED, "good": lambda: GOOD}
    made |= {attack.name: lambda attack=attack: attack.data for attack in make.tensor_attacks()}
    for name, data in made.items():
        (tmp_path / name).write_bytes(data())
    answer = subprocess.run(
        [sys.executable, "-c", PEAK + PARSE, *(str(tmp_path / name) for name in made)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert len(rows) == len(made)
    assert {name for name, said, *_ in rows if said == "sound"} == {*HEADED, "good"}
    slow = {name: float(seconds) for name, _, seconds, _ in rows if float(seconds) > QUICKLY}
    assert slow == {}
    assert max(int(memory) for *_, memory in rows) < PARSER_MEMORY


def test_the_library_is_never_asked_about_a_hostile_header(monkeypatch):
    """Reading bytes in memory has the same judge as the check of a file."""
    for make_data in BLOBS.values():
        with pytest.raises(errors.DeployError, match=r"\. [A-Z]"):
            read_tensors(make_data())


def test_only_the_beginning_of_a_blob_is_read(tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(make.blob({"a": make.entry("U8", (2**30,), (0, 2**30))}))
    os.truncate(path, path.stat().st_size + 2**30)  # a hole: it takes no space
    begin = time.perf_counter()
    check_blob(path)
    assert time.perf_counter() - begin < 10 * QUICKLY  # hashing a gigabyte takes longer

"""Tensors in bits: whole steps from a start, which come back to the bit, or are refused."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl_deploy import errors
from edgecl_deploy.format import (
    Grid,
    LearnedSpec,
    PackTensor,
    digest,
    learned_from,
    on_grid,
    parse_pack,
    read_bits,
    stored_tensors,
    write_bits,
    write_tensors,
)

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "bits.json"
STEPS = [0, 1, -1, 2, -3, 5, -12, 2**21, -(2**21), 2**20 + 1, -777777, 96]
# A change here is a change of the format: no device would read the packs that there are.
BITS = bytes.fromhex("1400000078da636064646662e1fcfbf7f27e69000d9503bc4a010020c67b00")
STEP = float(np.float32(1.5)) * 2.0**-21
quick = settings(max_examples=150, deadline=None, derandomize=True)
small = st.integers(-(2**22) + 1, 2**22 - 1) | st.integers(-20, 20) | st.just(0)


# -- whole numbers


def test_the_golden_bytes_are_read():
    assert read_bits(BITS, len(STEPS)).tolist() == STEPS
    packed = BITS[4 : 4 + BITS[0]]
    kinds = zlib.decompress(packed)
    pairs = [(0, 0), *((size, end) for size in range(1, 23) for end in range(size))]
    for kind, step in zip(kinds, STEPS, strict=True):
        size, end = pairs[kind]
        assert size == abs(step).bit_length()
        assert step % 2**end == 0
        assert step == 0 or step % 2 ** (end + 1) != 0


@quick
@given(steps=st.lists(small, max_size=200))
def test_numbers_come_back(steps):
    data = write_bits(np.array(steps, np.int64))
    assert read_bits(data, len(steps)).tolist() == steps
    zeros = sum(step == 0 for step in steps)
    between = sum(
        max(0, abs(step).bit_length() - 2 - ((step & -step).bit_length() - 1))
        for step in steps
        if step
    )
    rest = len(data) - 4 - int.from_bytes(data[:4], "little")
    assert rest == -(-(len(steps) - zeros + between) // 8), "a sign, and what is between"
    for wrong in (len(steps) + 1, len(steps) - 1):
        if wrong >= 0:
            with pytest.raises(errors.TensorFileError, match="Do not use this pack"):
                read_bits(data, wrong)


@quick
@given(steps=st.lists(small, min_size=1, max_size=40), data=st.data())
def test_bytes_that_are_missing_or_too_many_are_refused(steps, data):
    whole = write_bits(np.array(steps, np.int64))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for wrong in (cut, whole + b"\0", whole + b"\1"):
        with pytest.raises(errors.TensorFileError, match="Do not use this pack"):
            read_bits(wrong, len(steps))


@quick
@given(data=st.binary(max_size=80), count=st.integers(0, 40))
def test_any_bytes_are_numbers_or_refused(data, count):
    framed = len(data).to_bytes(4, "little") + zlib.compress(data) + data
    inflating = len(zlib.compress(data)).to_bytes(4, "little") + framed[4:]
    for each in (data, framed, inflating):
        try:
            found = read_bits(each, count)
        except errors.TensorFileError:
            continue
        assert np.array_equal(read_bits(write_bits(found.astype(np.int64)), count), found)


def test_chunks_leave_no_seam(monkeypatch):
    steps = np.random.default_rng(0).integers(-4000, 4000, 1000)
    data = write_bits(steps)
    monkeypatch.setattr("edgecl_deploy.format._bits._CHUNK", 7)
    np.testing.assert_array_equal(read_bits(data, 1000), steps)


def test_no_more_is_inflated_than_there_are_numbers():
    bomb = zlib.compress(bytes(50_000_000), 9)
    data = len(bomb).to_bytes(4, "little") + bomb
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(errors.TensorFileError, match="another number than 10"):
        read_bits(data, 10)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_padding_is_zero_and_short():
    data = write_bits(np.array([1, -1], np.int64))  # two bits
    assert read_bits(data, 2).tolist() == [1, -1]
    changed = bytes([*data[:-1], data[-1] | 0x80])
    with pytest.raises(errors.TensorFileError, match="bits after the 2"):
        read_bits(changed, 2)
    kinds = zlib.compress(bytes([254]))
    with pytest.raises(errors.TensorFileError, match="the class 254"):
        read_bits(len(kinds).to_bytes(4, "little") + kinds, 1)


def test_a_value_is_a_start_and_steps_in_float32():
    start = np.array([0.1, -3.0], np.float32)
    want = np.float32(0.1) + np.float32(777) * np.float32(STEP)
    assert on_grid(np.array([777, 0]), STEP, start).tolist() == [float(want), -3.0]


# -- in a pack


def spec(*axes: str, **sizes: int) -> LearnedSpec:
    return LearnedSpec(axes, sizes, None)


def with_bits(pack, steps, axes, starts, name="shared", **changes):
    """A pack that holds a tensor in bits as well."""
    own, blobs = pack
    steps = np.asarray(steps, np.int64)
    data = write_bits(steps)
    value, files = starts, []
    if isinstance(starts, list):
        files = [write_tensors({name: each}) for each in starts]
        value = tuple(digest(each) for each in files)
    files.append(write_tensors({name: np.frombuffer(data, np.uint8)}))
    grid = Grid(len(data), STEP, value)
    entry = PackTensor("float32", steps.shape, axes, None, digest(files[-1]), bits=grid)
    entry = replace(entry, **changes)
    new = {digest(each): each for each in files}
    sizes = {key: len(each) for key, each in new.items()}
    tensors = {**own.tensors, name: entry}
    return replace(own, tensors=tensors, blobs={**own.blobs, **sizes}), {**blobs, **new}


def joined(world, learned, *packs):
    plain = world.bundle.programs["plain"]
    program = replace(plain, learned={**plain.learned, **learned})
    for pack, _ in packs:
        assert parse_pack(pack.to_bytes()) == pack
    blobs = {name: data for _, each in packs for name, data in each.items()}
    return learned_from(program, [pack for pack, _ in packs], blobs)


def test_a_golden_manifest_is_read_and_written_back():
    data = GOLDEN.read_bytes()
    pack = parse_pack(data)
    assert pack.to_bytes() == data
    tensor = pack.tensors["shared"]
    assert (tensor.bits.nbytes, tensor.nbytes, tensor.bits.step) == (31, 31, STEP)
    assert set(tensor.blobs) == set(pack.blobs)
    assert parse_pack(data.replace(b'"bytes":31', b'"bytes":31,"more":1')).to_bytes() != data


def test_it_comes_back_to_the_bit_and_its_start_is_shared(world):
    start = np.linspace(-1, 1, 6).astype(np.float16).reshape(2, 3)
    own = {"shared": spec("p", "d", d=3)}
    one = with_bits(world.pack(0, ("red",)), [[1, 2, 3], [0, 0, 0]], ("p", "d"), [start])
    two = with_bits(world.pack(1, ("green",)), [[1, 2, 4], [0, 0, -9]], ("p", "d"), [start])
    assert len({*one[0].blobs} & {*two[0].blobs}) == 1
    found = joined(world, own, one, two)["shared"]
    want = start.astype(np.float32) + np.float32([[1, 2, 4], [0, 0, -9]]) * np.float32(STEP)
    assert found.tobytes() == want.tobytes()
    assert not found.flags.writeable
    first = stored_tensors(*one)
    assert first.keys() == {"prototypes", "shared"}
    assert first["shared"][1].tolist() == start[1].tolist()
    constant = with_bits(world.pack(0, ("red",)), [[8, 0, 0]], ("p", "d"), 0.5)
    assert joined(world, own, constant)["shared"].tolist() == [[0.5 + 8 * STEP, 0.5, 0.5]]


def test_rows_of_a_head_start_with_their_tasks(world):
    rows = [np.full((1, 2), 1, np.float16), np.full((2, 2), 2, np.float32)]
    own = {"head": spec("c", "m", m=2)}
    first = with_bits(world.pack(0, ("red",)), [[0, 1]], ("c", "m"), rows[:1], "head")
    second = with_bits(world.pack(1, ("green", "blue")), np.zeros((3, 2)), ("c", "m"), rows, "head")
    assert joined(world, own, first, second)["head"].tolist() == [[1, 1], [2, 2], [2, 2]]
    short = with_bits(
        world.pack(1, ("green", "blue")), np.zeros((3, 2)), ("c", "m"), rows[1:], "head"
    )
    with pytest.raises(errors.TensorShapeError, match=r"start with its shape .* Do not use"):
        joined(world, own, first, short)


def test_what_is_not_a_tensor_in_bits_is_refused(world):
    own = {"shared": spec("p", "d", d=3)}
    start = np.zeros((1, 3), np.float16) + np.arange(3, dtype=np.float16)
    axes = ("p", "d")

    def pack(starts=(start,), steps=((1, 2, 3),), **changes):
        return with_bits(world.pack(0, ("red",)), steps, axes, list(starts), **changes)

    for changes, error in [
        ({"dtype": "float16"}, "of a float32 tensor"),
        ({"concat_axis": "d"}, "of a float32 tensor"),
        ({"extra": {"blob": "a" * 64}}, "of a float32 tensor"),
    ]:
        with pytest.raises(errors.ManifestError, match=error):
            parse_pack(pack(**changes)[0].to_bytes())
    with pytest.raises(errors.ManifestError, match="one start"):
        parse_pack(pack([start, start])[0].to_bytes())
    whole, blobs = pack()
    grid = whole.tensors["shared"].bits
    for wrong, match in [
        (replace(grid, step=0.1), "a float32"),
        (replace(grid, step=0.0), "a number of"),
        (replace(grid, start=()), "at least one blob"),
        (replace(grid, start=float("1e31")), "a number of"),
        (replace(grid, start=("e" * 64,)), "in blobs that the pack lists"),
        (replace(grid, nbytes=0), "a whole number of 1"),
    ]:
        changed = {"shared": replace(whole.tensors["shared"], bits=wrong)}
        with pytest.raises(errors.ManifestError, match=match):
            parse_pack(replace(whole, tensors=changed).to_bytes())
    longer = {"shared": replace(whole.tensors["shared"], bits=replace(grid, nbytes=9999))}
    with pytest.raises(errors.TensorShapeError, match="must fit its"):
        parse_pack(replace(whole, tensors=longer).to_bytes())

    for wrong_start, error in [
        (start.astype(np.float64), errors.TensorDtypeError),
        (start.astype(np.int32), errors.TensorDtypeError),
        (start[:, :2], errors.TensorShapeError),
        (start[0], errors.TensorShapeError),
        (start + np.float16(np.inf), errors.NonFiniteError),
    ]:
        with pytest.raises(error):
            joined(world, own, pack([wrong_start]))
    one_less = replace(whole.tensors["shared"], bits=replace(grid, nbytes=grid.nbytes - 1))
    with pytest.raises(errors.TensorShapeError, match=r"shared must have the shape"):
        joined(
            world,
            own,
            (replace(whole, tensors={**whole.tensors, "shared": one_less}), blobs),
        )
    other = write_tensors({"stray": start})
    with pytest.raises(errors.ExtraTensorError, match="must hold only tensors"):
        joined(world, own, (whole, {**blobs, grid.start[0]: other}))
    with pytest.raises(errors.MissingTensorError, match="must hold shared"):
        joined(world, own, (whole, {**blobs, grid.start[0]: write_tensors({})}))


def test_nothing_is_decoded_before_the_sizes_are_known(world, monkeypatch):
    monkeypatch.setattr("edgecl_deploy.format._bits.read_bits", lambda *_: pytest.fail("early"))
    pack = with_bits(world.pack(0, ("red",)), np.zeros((300, 3)), ("p", "d"), 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("edgecl_deploy.manifest.limits.MAX_LEARNED", 1000)
        with pytest.raises(errors.LimitError, match="Release fewer tasks"):
            joined(world, {"shared": spec("p", "d", d=3)}, pack)
    huge = {"shared": replace(pack[0].tensors["shared"], shape=(2**24 + 1, 1))}
    with pytest.raises(errors.LimitError, match="Export the task again with --dtype float16"):
        parse_pack(replace(pack[0], tensors=huge).to_bytes())

"""The declaration of how a program takes a class: what is read, kept and refused."""

from dataclasses import replace

import pytest

from edgecl_deploy.errors import ManifestError
from edgecl_deploy.format import (
    DISCRIMINANT,
    FOURIER,
    MEAN,
    RELU_MATMUL,
    RIDGE,
    SCALED,
    Enrol,
    Expand,
    canonical,
    parse_bundle,
)
from edgecl_deploy.manifest.canonical import load_object

RIDGED = Enrol(RIDGE, "prototypes", (1, 3), scale="keys", expand=Expand(RELU_MATMUL, "prompts"),
               depends=("shift",))  # fmt: skip

SOLVED = Enrol(DISCRIMINANT, "prototypes", (0, 3), "keys", Expand(SCALED, None, 2.5),
               bias="shift", shrinkage="oas")  # fmt: skip


def written(world, enrol):
    pool = replace(world.bundle.programs["pool"], enrol=enrol)
    return replace(world.bundle, programs={**world.bundle.programs, "pool": pool}).to_bytes()


def changed(world, of=RIDGED, **fields):
    document = load_object(written(world, of), "bundle", 10**6)
    document["programs"]["pool"]["enrol"] |= fields
    return canonical(document)


def test_a_declaration_is_read_as_it_was_written(world):
    fourier = replace(SOLVED, expand=Expand(FOURIER, "prompts", 1.5), shrinkage="trace")
    for enrol in (RIDGED, Enrol(MEAN, "prototypes", (0, 3)), SOLVED, fourier):
        assert parse_bundle(written(world, enrol)).programs["pool"].enrol == enrol


def test_a_bundle_without_it_keeps_its_bytes_and_null_is_none(world):
    data = world.bundle.to_bytes()
    assert b"enrol" not in data
    assert parse_bundle(data).to_bytes() == data
    document = load_object(data, "bundle", 10**6)
    document["programs"]["pool"]["enrol"] = None
    assert parse_bundle(canonical(document)).programs["pool"].enrol is None


def test_a_kind_of_later_days_counts_as_absent_and_is_kept(world):
    data = changed(world, kind="nearest-four")
    bundle = parse_bundle(data)
    assert bundle.programs["pool"].enrol is None
    assert bundle.to_bytes() == data


@pytest.mark.parametrize(
    "fields",
    [
        {"tensor": "none"},
        {"scale": "none"},
        {"depends": ["shift", "none"]},
        {"expand": {"op": "relu_matmul", "tensor": "none"}},
        {"expand": {"op": "tanh", "tensor": "prompts"}},
        {"columns": [3, 3]},
        {"columns": [0]},
        {"columns": [0, True]},
    ],
)
def test_a_declaration_that_names_what_is_not_there_is_refused(world, fields):
    with pytest.raises(ManifestError, match="Make the file again"):
        parse_bundle(changed(world, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"bias": "none"},
        {"bias": None},
        {"shrinkage": "most"},
        {"scale": None},
        {"expand": None},
        {"expand": {"op": "scaled"}},
        {"expand": {"op": "scaled", "factor": 0}},
        {"expand": {"op": "fourier", "factor": 1.0}},
        {"expand": {"op": "fourier", "factor": 1.0, "tensor": "none"}},
    ],
)
def test_a_discriminant_without_what_it_needs_is_refused(world, fields):
    with pytest.raises(ManifestError, match="Make the file again"):
        parse_bundle(changed(world, SOLVED, **fields))

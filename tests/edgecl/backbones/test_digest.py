"""The digest changes with anything that changes a feature, and with nothing else."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import torch

from edgecl.backbones import Preprocess
from edgecl.backbones.digest import Identity, fingerprints, weights_digest

WEIGHTS = {"b": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.tensor(3)}
CONFIG = {"depth": 2, "norm_eps": 1e-6}
PREPROCESS = Preprocess(size=28, resize=28)
PINNED = "f2e62b3d8d2377fab370884a87b68705ac08c96907ccd8dd64b5d2f821f2713d"


def digest(weights: dict[str, torch.Tensor] = WEIGHTS, preprocess: Preprocess = PREPROCESS) -> str:
    return Identity(fingerprints(weights), CONFIG).digest(preprocess)


def test_it_is_stable_across_processes_and_orders() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_digest; print(test_digest.digest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    assert done.stdout.strip() == digest() == digest(dict(reversed(WEIGHTS.items()))) == PINNED


def test_one_changed_weight_changes_it() -> None:
    changed = {name: tensor.clone() for name, tensor in WEIGHTS.items()}
    changed["b"][1, 2] += 1e-6
    assert digest(changed) != digest()
    assert digest({**WEIGHTS, "b": WEIGHTS["b"].reshape(3, 2)}) != digest()
    assert digest({**WEIGHTS, "b": WEIGHTS["b"].double()}) != digest()
    assert digest({"c": WEIGHTS["b"], "a": WEIGHTS["a"]}) != digest()
    assert weights_digest(fingerprints(changed)) != weights_digest(fingerprints(WEIGHTS))


def test_one_changed_number_of_the_preprocessing_changes_it() -> None:
    assert (
        digest(preprocess=dataclasses.replace(PREPROCESS, mean=(0.485, 0.456, 0.407))) != digest()
    )
    others: tuple[dict[str, Any], ...] = (
        {"resize": 29},
        {"fit": "pad"},
        {"window": (0.0, 9.0)},
        {"decode": "draft2"},
    )
    for other in others:
        assert digest(preprocess=dataclasses.replace(PREPROCESS, **other)) != digest()


def test_a_view_has_the_digest_of_its_values() -> None:
    columns = torch.arange(6, dtype=torch.float32).reshape(3, 2).T
    assert fingerprints({"b": columns}) == fingerprints({"b": columns.contiguous()})

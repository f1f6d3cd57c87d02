"""torchvision's missing operators are defined once, and only where they are missing."""

import os
import subprocess
import sys

PREPARE = "from edgecl.backbones._torchvision import _libraries, prepare_torchvision as prepare\n"
DEFINE_BY_HAND = """
import torch
from edgecl.backbones._torchvision import SCHEMAS
library = torch.library.Library("torchvision", "DEF")
for schema in SCHEMAS.values():
    library.define(schema)
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_and_timm_import_after_it_and_the_library_lives() -> None:
    out = run(
        "import gc, torch\n" + PREPARE + "prepare(); prepare(); gc.collect()\n"
        "import torchvision, timm\n"
        "print(hasattr(torch.ops.torchvision, 'nms'), len(_libraries) <= 1)"
    )
    assert out == "True True"


def test_it_does_nothing_where_the_operators_exist() -> None:
    assert run(DEFINE_BY_HAND + PREPARE + "prepare(); print(len(_libraries))") == "0"


def test_it_does_nothing_without_torchvision() -> None:
    code = "import sys\nsys.modules['torchvision'] = None\n" + PREPARE
    assert run(code + "prepare(); print(len(_libraries))") == "0"


def test_importing_the_room_imports_no_heavy_library() -> None:
    heavy = {"timm", "open_clip", "torchvision", "onnx"}
    assert run(f"import sys, edgecl.backbones; print({heavy} & set(sys.modules))") == "set()"

"""What the server takes, by its OpenAPI document and a tool that makes requests of such a one.

Schemathesis is not in the development environment: python -m venv s && s/bin/pip install
schemathesis, and EDGECL_SCHEMATHESIS=s/bin/schemathesis. EDGECL_OPENAPI names another document.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.deploy.support.asking import png, serving
from tests.deploy.support.enrolling import cosine_world
from tests.deploy.support.openapi import document
from tests.deploy.support.scored import scored_release

from edgecl_deploy import Classifier
from edgecl_deploy.server.app import make_app
from edgecl_deploy.server.guard import Guard, Rights

UNDOCUMENTED = {"/edgecl/v1/events", "/metrics"}  # a stream, and no JSON
EXAMPLES, CASES = 40, 500  # of an operation; of all, at least


@pytest.fixture
def server(world, tmp_path):
    toy = cosine_world(world)
    path = scored_release(toy, 1, "red", "green").write(toy.fresh())
    classifier = Classifier.open(toy.bundle_path, path, local=tmp_path / "mine", threads=1)
    with classifier, serving(classifier, Guard(anyone=Rights.ENROL)) as asked:
        yield asked


def test_every_path_of_the_server_is_in_the_document(server):
    found = set()
    for route in make_app(server.service, Guard())._app.routes:
        path = route.path.replace(":path", "")
        found |= {(path, each.lower()) for each in route.methods - {"HEAD"}}
    wanted = {(path, each) for path, known in document()["paths"].items() for each in known}
    assert wanted == {each for each in found if each[0] not in UNDOCUMENTED}


@pytest.mark.slow
def test_no_request_of_the_document_is_an_error_of_the_server(server, tmp_path):
    tool = os.environ.get("EDGECL_SCHEMATHESIS")
    if tool is None:
        pytest.skip("schemathesis is not installed: EDGECL_SCHEMATHESIS names its command")
    given = os.environ.get("EDGECL_OPENAPI")
    path = Path(given) if given else tmp_path / "openapi.json"
    if not given:
        path.write_text(json.dumps(document()))
    done = subprocess.run(
        [tool, "run", path, "--url", "http://{}:{}".format(*server.address), "--seed", "1",
         "--max-examples", str(EXAMPLES), "--phases", "examples,coverage,fuzzing",
         "--checks", "not_a_server_error", "--generation-database", "none", "--no-color",
         "--continue-on-failure", "--report", "ndjson", "--report-dir", tmp_path],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    cases = max(map(int, re.findall(r"(\d+) generated", done.stdout)), default=0)
    assert cases >= CASES, done.stdout[-2000:]
    assert server.image(png("red")).output("label")[0] == "red"

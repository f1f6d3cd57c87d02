"""The bytes that the tests of the fetcher serve."""

import numpy as np
from tests.deploy.support.fault_server import Fault

from edgecl_deploy.format import digest

DATA = np.random.default_rng(7).bytes(300_000)
LARGE = np.random.default_rng(8).bytes(5_000_000)
CUTS = np.random.default_rng(9).integers(1, len(LARGE), 10).tolist()
DEADLINE = 0.5
RESUMED = f"/targets/{digest(LARGE)}.large.bin"


def take(fetcher, url, length=None):
    with fetcher.download_file(url, len(DATA) if length is None else length) as file:
        return file.read()


def redirect(location):
    return Fault(status=302, headers={"Location": location})

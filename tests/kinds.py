"""One method of each kind of graph, for tests of what checks a program and not of the program."""

import pytest

KINDS = (
    "simplecil",  # plain features, nothing is injected or generated
    "ranpac",  # a generated projection
    "l2p",  # matched prompts
    "dap",  # generated prompts
    "diki",  # prefixes with weights of a mixture, class names
    "ease",  # a pass for each task
    "esn",  # matched after the pass
    "inflora",  # a change of weights that grows
    "input-tuning",  # pixels
    "s-liprompts",  # prompts by the nearest centroid, heads of class names
)
every_kind = pytest.mark.parametrize("name", KINDS)

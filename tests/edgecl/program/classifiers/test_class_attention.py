"""Class attention, one block per task, as it is written in books."""

import numpy as np
import pytest
import torch
from tests.edgecl.support import generator
from torch import Tensor
from torch.nn import functional as F

from edgecl.program.classifiers.class_attention import NORM_EPS, TaskBlocks
from edgecl.program.learned import Tensors

D, HEAD, HEADS = 12, 4, 3


def some(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=generator(seed)) * scale


def random_blocks(blocks: TaskBlocks, tasks: int) -> Tensors:
    """Return tensors that all matter: no scale is one, no bias zero."""
    found = {}
    for index, (name, item) in enumerate(blocks.declare().items()):
        shape = (tasks, *(item.sizes[axis] for axis in item.axis_names[1:]))
        found[name] = some(*shape, seed=index, scale=0.5)
    return found


def naive(tokens: Tensor, block: Tensors, key_bias: Tensor) -> Tensor:
    """Run one task's block on one image's rows [n, d] with queries, keys and values of all rows."""
    token = block["task_tokens"]
    rows = torch.cat([token[None], tokens])
    x = F.layer_norm(rows, (D,), block["attention_scale"], block["attention_shift"], NORM_EPS)
    out = block["attention_out_bias"].clone()
    for head in range(HEADS):
        query = x[0] @ block["attention_query"][head] + block["attention_query_bias"][head]
        keys = x @ block["attention_key"][head] + key_bias[head]
        values = x @ block["attention_value"][head] + block["attention_value_bias"][head]
        weights = (keys @ query / HEAD**0.5).softmax(dim=0)
        out += weights @ values @ block["attention_out"][head]
    x = token + out
    inner = F.layer_norm(x, (D,), block["mlp_scale"], block["mlp_shift"], NORM_EPS)
    hidden = F.gelu(inner @ block["mlp_in"] + block["mlp_in_bias"])
    return x + hidden @ block["mlp_out"] + block["mlp_out_bias"]


@pytest.mark.parametrize("tasks", [1, 3])
def test_class_attention_is_what_a_naive_one_makes_whatever_the_bias_of_its_keys(
    tasks: int,
) -> None:
    blocks = TaskBlocks(D, HEAD)
    learned = random_blocks(blocks, tasks)
    tokens = some(5, 7, D, seed=99, scale=3.0)
    found = blocks(tokens, learned)
    assert found.shape == (tasks, 5, D)
    bias = some(HEADS, HEAD, seed=98)
    for task in range(tasks):
        block = {name: tensor[task] for name, tensor in learned.items()}
        for image in range(5):
            want = naive(tokens[image], block, bias)
            torch.testing.assert_close(found[task, image], want, rtol=1e-5, atol=1e-5)
    assert torch.equal(blocks(tokens[:, torch.randperm(7)], learned).isfinite(), found.isfinite())


def test_padded_rows_get_no_weight() -> None:
    blocks = TaskBlocks(D, HEAD)
    learned = random_blocks(blocks, 2)
    tokens = some(3, 7, D, seed=99)
    padded = torch.cat([tokens[:, :3], torch.zeros(3, 4, D), tokens[:, 3:]], dim=1)
    torch.testing.assert_close(blocks(padded, learned), blocks(tokens, learned))


def test_the_size_is_the_papers_three_million() -> None:
    """At width 768 the block has 2,956,416 numbers with the bias of the keys, which is left out."""
    for width, want in ((768, 2_956_416 - 768), (384, 740_544)):
        sizes = [item.shape(10) for item in TaskBlocks(width).declare().values()]
        assert sum(int(np.prod(size)) for size in sizes) == want + width  # and the task token

"""What cannot be traced or computed says why, and where."""

from __future__ import annotations

import pytest
import torch
from small_models import Written, conv, norm
from torch import nn

from hedgerow.errors import ModelError
from hedgerow.tracing import run, trace

REFUSED = {
    "another shape": (nn.Sequential(conv(), conv(3)), r"shape \[1, 4, 8, 8\], module '1' raised RuntimeError"),
    "a tuple": (Written(lambda s, x: (x, x)), "returned a tuple; one tensor"),
    "the batch size fixed": (Written(lambda s, x: x.view(len(x), -1)), r"fixes the batch size.*x\.shape\[0\]"),
    "a branch on the batch size": (Written(lambda s, x: x * 2 if x.shape[0] > 8 else x), "decides by it"),
    "a branch on a single image": (Written(lambda s, x: x * 2 if x.shape[0] > 1 else x), "one image alone"),
    "a squeezed batch": (Written(lambda s, x: x.mean((2, 3)).squeeze()), r"shape \[4\].*batch size first"),
    "a branch on values": (
        nn.Sequential(conv(), Written(lambda s, x: x if x.sum() > 0 else -x)),
        r"module '1' decides by values.*torch\.where",
    ),
    "a result without a batch": (Written(lambda s, x: s.w, w=nn.Parameter(torch.ones(1, 3))), "batch size first"),
    "a call that torch.export refuses": (
        Written(lambda s, x: torch.from_numpy(x.detach().numpy())),
        "in the model",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_traced_says_why(case, capfd):
    model, message = REFUSED[case]
    with pytest.raises(ModelError, match=rf"{type(model).__name__} cannot be traced: .*{message}"):
        trace(model.eval(), torch.rand(2, 4, 8, 8))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("example", [None, torch.rand(0, 4, 8, 8), torch.rand(())])
def test_an_example_is_a_batch_of_images(example):
    with pytest.raises(ModelError, match="batch of at least one image"):
        trace(conv(), example)


def test_a_graph_used_with_another_model_names_what_is_missing():
    graph = trace(nn.Sequential(conv(), norm()), torch.rand(2, 4, 8, 8))
    with pytest.raises(ModelError, match=r"1\.weight: Sequential has no such parameter"):
        run(graph, nn.Sequential(conv()).eval(), torch.rand(2, 4, 8, 8))


def autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = self.c(x)
    return y.float()


def one_more_than_the_batch(self, x):
    return self.c(x) * torch.ones(x.shape[0] + 1, 1, 1, 1)[1:]


@pytest.mark.parametrize(
    ("forward", "name"), [(autocast, "wrap_with_autocast"), (one_more_than_the_batch, "aten.ones.default")]
)
def test_what_cannot_be_computed_outside_its_model_says_so(forward, name):
    model = Written(forward, c=conv()).eval()
    graph = trace(model, torch.rand(2, 4, 8, 8))
    assert name in {node.attributes["aten"] for node in graph.unknown}
    with pytest.raises(ModelError, match=rf"{name} in the model's own forward cannot be computed outside"):
        run(graph, model, torch.rand(2, 4, 8, 8))

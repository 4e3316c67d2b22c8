"""A small network with what exporters stumble over: normalisation, a skip, batch statistics, dead channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.data import Dataset, load_dataset
from hedgerow.export import Material
from hedgerow.models import Normalize
from hedgerow.sparsity import attach_masks, prunable_weights


class Net(nn.Module):
    """`[N, 1, 8, 8]` pixels to ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize([0.3], [0.4])
        self.first = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.second = nn.Conv2d(12, 12, 3, padding=1)
        self.third = nn.Conv2d(12, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(self.normalize(x))))
        x = torch.relu(self.second(x) + x)
        return self.head(torch.relu(self.third(x)).flatten(1))  # type: ignore[no-any-return]


def digits() -> Dataset:
    return load_dataset("digits", train_limit=200, test_limit=100)


def network(seed: int = 0) -> Net:
    """Return a network with statistics of real images and masks attached; three channels of `third` are dead."""
    torch.manual_seed(seed)
    model = Net()
    for _ in range(20):
        model(digits().train.pixels()[:64])
    masks = {name: torch.rand(weight.dense.shape) < 0.3 for name, weight in prunable_weights(model).items()}
    masks["third.weight"][2:5] = False
    with torch.no_grad():
        model.third.bias[2:5] = -0.1  # never above zero: the channels go
    attach_masks(model, masks)
    return model


def material(seed: int = 0) -> Material:
    data = digits()
    images = data.test.pixels()[:70]
    return Material(
        network(seed), images, data.train.pixels()[:96], multiple_of=1, about={"recipe": {"name": "x"}}
    )

"""What the tests of ADMM, RVSM and RGSM share: networks, a plain loop, a stop and a resumption, digits."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.data import load_dataset
from hedgerow.evaluation import quick_accuracy
from hedgerow.objectives import PGDAdversarialTraining
from hedgerow.pruners import Magnitude, Progress, Pruner
from hedgerow.recipe import Recipe, parse_recipe
from hedgerow.sparsity import Budget, prunable_weights, shared_weights
from hedgerow.threat import ThreatModel
from hedgerow.training import Plan, Setting, train

STEPS = 3
THREAT = ThreatModel("linf", 0.1)
DOCS = Path(__file__).parents[2] / "docs" / "methods"


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


class EveryKind(nn.Module):
    """Convolutions in one, two and three dimensions, grouped and depthwise, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.conv1d = nn.Conv1d(8, 4, 5, groups=2)
        self.conv3d = nn.Conv3d(4, 5, 2)
        self.fc = nn.Linear(5, 10)


def batches(epoch: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(epoch)
    return [(torch.rand(8, 2, 8, 8, generator=generator), torch.arange(8) % 3) for _ in range(STEPS)]


def loop(
    model: nn.Module,
    pruner: Pruner,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int = 4,
    start: tuple[int, int] = (0, 0),
    stop: tuple[int, int] | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """The hooks in their order from step `start` on, to the end or up to before step `stop`."""
    for epoch in range(epochs):
        for step, (x, y) in enumerate(batches(epoch)):
            if (epoch, step) < start:
                continue
            if (epoch, step) == stop:
                return
            optimizer.zero_grad()
            with shared_weights(model):
                loss = F.cross_entropy(model(x), y)
                penalty = pruner.penalty()
                (loss if penalty is None else loss + penalty).backward()
            pruner.after_backward()
            optimizer.step()
            progress = Progress(epoch, epochs, step, STEPS)
            pruner.after_step(progress)
            watch(progress)


def begin(
    pruner: Pruner,
    budget: Budget,
    lr: float = 0.1,
    *,
    network: Callable[[], nn.Module] = small_model,
    example: Tensor | None = None,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = network()
    pruner.attach(model, budget, example=example)
    return model, torch.optim.SGD(pruner.parameters(), lr=lr, momentum=0.9, weight_decay=0.01)


def resumed_equals_whole(
    make: Callable[[], Pruner],
    budget: Budget,
    stop: tuple[int, int],
    *,
    network: Callable[[], nn.Module] = small_model,
    example: Tensor | None = None,
) -> bool:
    """Stop before a step, write all state to a file, go on in new objects; compare everything with no stop."""
    ends = []
    for place in (None, stop):
        pruner = make()
        model, optimizer = begin(pruner, budget, network=network, example=example)
        loop(model, pruner, optimizer, stop=place)
        if place is not None:
            parts = {"model": model, "optimizer": optimizer, "pruner": pruner}
            file = io.BytesIO()
            torch.save({name: part.state_dict() for name, part in parts.items()}, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
            pruner = make()
            model, optimizer = begin(pruner, budget, network=network, example=example)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            pruner.load_state_dict(state["pruner"])
            loop(model, pruner, optimizer, start=place)
        before = copy.deepcopy(model.state_dict())
        masks = pruner.finish()
        ends.append([*before.values(), *masks.values(), *model.state_dict().values()])
    return len(ends[0]) == len(ends[1]) and all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def fit(pruner: Pruner, target: Tensor, budget: Budget, *, epochs: int, steps: int) -> nn.Module:
    """Minimise ||W - target||^2 / 2 over one layer from its dense minimum on; the sparse one is known."""
    model = nn.Linear(target.shape[1], target.shape[0], bias=False)
    with torch.no_grad():
        model.weight.copy_(target)
    pruner.attach(model, budget)
    optimizer = torch.optim.SGD(pruner.parameters(), lr=0.3)
    for epoch in range(epochs):
        for step in range(steps):
            optimizer.zero_grad()
            with shared_weights(model):
                loss = 0.5 * (model.weight - target).square().sum()
                penalty = pruner.penalty()
                (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
            pruner.after_step(Progress(epoch, epochs, step, steps))
    return model


def dense_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.dense.detach().clone() for name, weight in prunable_weights(model).items()}


def seen_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights as the layers use them now."""
    return {n: getattr(w.module, w.attribute).detach().clone() for n, w in prunable_weights(model).items()}


def digits_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@functools.cache
def _pretrained() -> nn.Module:
    model = digits_model()
    digits_phase(model, None, Budget(0), 12)
    return model


def pretrained() -> nn.Module:
    """A robustly trained network for digits, a copy of its own for everyone."""
    return copy.deepcopy(_pretrained())


def digits_phase(model: nn.Module, pruner: Pruner | None, budget: Budget, epochs: int) -> list[float]:
    """One phase of the real loop under attack; returns the robust validation accuracy of every epoch."""
    data = load_dataset("digits")
    x, y = data.validation.pixels(), data.validation.labels
    found: list[float] = []

    def validate(net: nn.Module) -> dict[str, float]:
        scores = quick_accuracy(net, x, y, threat=THREAT, steps=3)
        found.append(scores["robust"])
        return scores

    train(
        model,
        data.train,
        PGDAdversarialTraining(THREAT, steps=2),
        plan=Plan(epochs=epochs, lr=0.1, weight_decay=0.0, select="last"),
        pruner=pruner,
        budget=budget,
        setting=Setting(accelerator="cpu", validate=validate),
    )
    return found


def robust(model: nn.Module) -> float:
    test = load_dataset("digits").test
    return quick_accuracy(model.eval(), test.pixels(), test.labels, threat=THREAT, steps=5)["robust"]


def magnitude_robust(budget: Budget) -> float:
    """What one-shot magnitude pruning leaves of the same network."""
    model = pretrained()
    digits_phase(model, Magnitude(), budget, 0)
    return robust(model)


def documented_recipes(page: str) -> list[Recipe]:
    """The recipes in a page of the documentation, checked like any other."""
    blocks = (DOCS / page).read_text(encoding="utf-8").split("```yaml\n")[1:]
    return [parse_recipe(yaml.safe_load(block.partition("```")[0]), page) for block in blocks]

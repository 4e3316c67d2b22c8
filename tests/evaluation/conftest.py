from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hedgerow.evaluation import Evaluated, Protocol, evaluate
from hedgerow.files import read_tensors
from hedgerow.objectives import PGDAdversarialTraining
from hedgerow.threat import ThreatModel

THREAT = ThreatModel("linf", "1/8")


@dataclass(frozen=True)
class Trained:
    """A network trained adversarially on digits, and digits that it has not seen."""

    model: nn.Module
    x: Tensor
    y: Tensor
    train_x: Tensor
    train_y: Tensor
    threat: ThreatModel = THREAT

    def predictions(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x).argmax(1)


@dataclass(frozen=True)
class Attacked:
    """One evaluation with AutoAttack, and the tensors that it kept for each batch."""

    result: Evaluated
    kept: dict[str, Tensor]
    x: Tensor
    y: Tensor


@pytest.fixture(scope="session")
def trained_once() -> Trained:
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target, dtype=torch.int64)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    objective = PGDAdversarialTraining(THREAT, steps=3, step_size="1/16")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    dice = torch.Generator().manual_seed(0)
    for _ in range(5):
        for index in torch.randperm(1400, generator=dice).split(100):
            optimizer.zero_grad()
            objective(model, x[index], y[index], dice)[0].backward()
            optimizer.step()
    return Trained(model.eval(), x[1400:], y[1400:], x[:1400], y[:1400])


@pytest.fixture
def trained(trained_once: Trained) -> Trained:
    """The trained network in eval mode, whatever an earlier test did to its mode."""
    trained_once.model.eval()
    return trained_once


@pytest.fixture(scope="session")
def attacked(trained_once: Trained, tmp_path_factory: pytest.TempPathFactory) -> Attacked:
    """Clean, PGD and AutoAttack on 60 images in one batch."""
    folder = tmp_path_factory.mktemp("attacked")
    x, y = trained_once.x[:60], trained_once.y[:60]
    trained_once.model.eval()
    protocol = Protocol(pgd_steps=10, pgd_restarts=2, batch_size=60)
    result = evaluate(trained_once.model, x, y, threat=THREAT, protocol=protocol, folder=folder)
    chunks = [read_tensors(file)[0] for file in sorted(folder.iterdir())]
    return Attacked(result, {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0]}, x, y)

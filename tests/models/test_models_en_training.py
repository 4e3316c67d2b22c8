"""Noisy ensembles in the training loop: resumed bit for bit, in bf16, in channels-last, under a pruner."""

from __future__ import annotations

import pytest
import torch

from hedgerow.data import load_dataset
from hedgerow.models import build_model
from hedgerow.objectives import PGDAdversarialTraining, Trades
from hedgerow.pruners import Hydra
from hedgerow.sparsity import Budget, count_nonzero, total_count
from hedgerow.threat import ThreatModel
from hedgerow.training import Plan, Setting, train

THREAT = ThreatModel("linf", 0.1)
PLAN = Plan(epochs=2, lr=0.1, batch_size=20, select="last")


class Stop(Exception):  # noqa: N818 - it stands for a power cut
    """The interruption."""


class Recorder:
    """Keeps the loss of every step; raises `Stop` after one of them."""

    def __init__(self, stop=None):
        self.stop = stop
        self.losses = {}

    def start(self, phase, plan, standing, steps): ...
    def epoch(self, metrics): ...
    def step(self, progress, images, loss):
        self.losses[progress.epoch, progress.step] = loss.item()
        if (progress.epoch, progress.step) == self.stop:
            raise Stop


def run(folder=None, stop=None, objective=PGDAdversarialTraining, pruner=None, **setting):
    """Train two small members on 40 digits; return the weights, the losses by step, and the network."""
    data = load_dataset("digits", train_limit=50, validation=10)
    model = build_model(
        "en2-resnet20",
        num_classes=10,
        channels=1,
        image_size=(8, 8),
        mean=data.mean,
        std=data.std,
        options={"depth": 10},
    )
    recorder = Recorder(stop)
    setting = Setting(folder=folder, accelerator="cpu", save_every=0.0, listeners=(recorder,), **setting)
    budget = Budget(0.8) if pruner else None
    train(model, data.train, objective(THREAT, steps=1), plan=PLAN, pruner=pruner, budget=budget, setting=setting)
    return model.state_dict(), recorder.losses, model


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("objective", [PGDAdversarialTraining, Trades])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path, objective):
    whole, losses, _ = run(objective=objective)
    with pytest.raises(Stop):
        run(tmp_path, (1, 1), objective)
    torch.rand(5)
    resumed, rest, _ = run(tmp_path, None, objective)
    assert list(rest) == [(1, 1)], "it went on, it did not start again"
    assert rest[1, 1] == losses[1, 1]
    assert same(resumed, whole)


@pytest.mark.parametrize("setting", [{"precision": "bf16-mixed"}, {"channels_last": True}])
def test_other_precisions_and_formats_train_on_the_same_noise(setting):
    losses, others = run()[1], run(**setting)[1]
    assert losses != others or "channels_last" in setting
    assert all(others[place] == pytest.approx(loss, rel=0.1) for place, loss in losses.items())


def test_a_pruner_removes_from_all_members(tmp_path):
    _, _, model = run(pruner=Hydra())
    assert total_count(count_nonzero(model)).sparsity == pytest.approx(0.8, abs=1e-3)
    shares = [total_count(count_nonzero(member)).sparsity for member in model.network.members]
    assert shares == pytest.approx([0.8, 0.8], abs=1e-3)

"""By what a model is judged: by its answer, or, where it is stochastic, by the mean of stated draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgerow.stochastic import Averaged, answers_vary, drawing, is_stochastic, shares_noise

EOT, DRAWS = 10, 10
LOOKED_AT = 16  # images whose answers tell whether a model is stochastic


class Unreached(nn.Module):
    """A model whose answers leave autograd (a comparison, an argmax, NumPy): the same answers, zero gradients.

    So gradient attacks run, find nothing, and the share of zero gradients tells why.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `[N, C]` of images `[N, ...]`."""
        logits: Tensor = self.model(x.detach())
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


def reachable(model: nn.Module, x: Tensor) -> nn.Module:
    """Return the model as it is, or `Unreached` where no gradient gets from its answers to `x`, `[1, ...]`."""
    with drawing(model, 0), torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        try:
            logits = model(point)
        except RuntimeError:  # NumPy takes no tensor that autograd follows; other errors come again without it
            return Unreached(model).eval()
        if not logits.requires_grad:
            return Unreached(model).eval()
        reached = torch.autograd.grad(logits.sum(), point, allow_unused=True)[0] is not None
    return model if reached else Unreached(model).eval()


def judged(model: nn.Module, x: Tensor, *, eot: int | None, draws: int | None, seed: int) -> nn.Module:
    """Return the model as it is, or `Averaged` where it says that it is stochastic or its answers on `x` vary.

    `eot` and `draws` are 10 unless given. A model that is `Averaged` already keeps its own. Raises `ModelError`
    for counts below 1.
    """
    if isinstance(model, Averaged) or not (is_stochastic(model) or answers_vary(model, x[:LOOKED_AT])):
        return model
    gradients, predictions = EOT if eot is None else eot, DRAWS if draws is None else draws
    return Averaged(model, eot=gradients, draws=predictions, seed=seed)


def describe_judge(judge: Averaged) -> str:
    """Return the words that every number of a stochastic model carries."""
    draws = "1 draw" if judge.draws == 1 else f"the mean logits of {judge.draws} draws"
    where = "the same for all images" if shares_noise(judge) else "others for each place of a batch"
    return f"stochastic model, predictions by {draws}, seed {judge.seed}, {where}"

"""By what a model is judged: by its answer, or, where it is stochastic, by the mean of stated draws."""

from __future__ import annotations

from torch import Tensor, nn

from hedgerow.stochastic import Averaged, answers_vary, is_stochastic, shares_noise

EOT, DRAWS = 10, 10
_LOOKED_AT = 16  # images whose answers tell whether a model is stochastic


def judged(model: nn.Module, x: Tensor, *, eot: int | None, draws: int | None, seed: int) -> nn.Module:
    """Return the model as it is, or `Averaged` where it says that it is stochastic or its answers on `x` vary.

    `eot` and `draws` are 10 unless given. A model that is `Averaged` already keeps its own. Raises `ModelError`
    for counts below 1.
    """
    if isinstance(model, Averaged) or not (is_stochastic(model) or answers_vary(model, x[:_LOOKED_AT])):
        return model
    gradients, predictions = EOT if eot is None else eot, DRAWS if draws is None else draws
    return Averaged(model, eot=gradients, draws=predictions, seed=seed)


def describe_judge(judge: Averaged) -> str:
    """Return the words that every number of a stochastic model carries."""
    draws = "1 draw" if judge.draws == 1 else f"the mean logits of {judge.draws} draws"
    where = "the same for all images" if shares_noise(judge) else "others for each place of a batch"
    return f"stochastic model, predictions by {draws}, seed {judge.seed}, {where}"

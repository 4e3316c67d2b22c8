"""The average of the weights over the steps of a phase, which generalises better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def kept_share(decay: float, steps: int) -> float:
    """Return how much of the average survives the step after `steps` others: min(decay, (1 + n) / (10 + n)).

    The first steps are far from where training ends; with few of them taken the average forgets faster.
    """
    return min(decay, (1 + steps) / (10 + steps))


class Average:
    """An exponential moving average of a model's state: avg <- d * avg + (1 - d) * state after every step.

    Averaged are all floats: parameters and, likewise, the running statistics of batch norm, so that they belong
    to about the same networks as the weights. Counters and masks are those of the model. A weight that is exactly
    0 at every step is exactly 0 in the average. decay = 0 is the model itself, bit for bit.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.values = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the state after an optimiser step."""
        new = 1.0 - kept_share(self.decay, self.steps)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.values[name].lerp_(tensor, new)
            else:
                self.values[name].copy_(tensor)
        self.steps += 1

    def give(self, model: nn.Module) -> None:
        """Make the average the model's own state."""
        _copy(self.values, model)

    @contextmanager
    def shown(self, model: nn.Module) -> Iterator[None]:
        """Let the model be the average inside, and what it was before on leaving, bit for bit."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.give(model)
        try:
            yield
        finally:
            _copy(own, model)

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive an interruption."""
        return {"decay": self.decay, "steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back; `ValueError` when it is of another model or another decay."""
        if state["decay"] != self.decay:
            raise ValueError(f"its weights were averaged with decay {state['decay']}, now it is {self.decay}")
        if state["values"].keys() != self.values.keys():
            raise ValueError("its average is of another model")
        self.steps = state["steps"]
        for name, tensor in state["values"].items():
            self.values[name].copy_(tensor)


@torch.no_grad()
def _copy(values: dict[str, Tensor], model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        tensor.copy_(values[name])

"""What several processes do together in training, and one alone does not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from hedgerow.data import steps_per_epoch
from hedgerow.errors import TeamError
from hedgerow.objectives import Objective, state_of
from hedgerow.team import Team, local_rank, team
from hedgerow.training.setting import Setting


def fabric_for(setting: Setting) -> Any:
    """Return the engine of this process: its device and precision; what the others do is not its business."""
    from lightning_fabric import Fabric

    devices: int | list[int] = [local_rank()] if setting.accelerator == "cuda" and team().world > 1 else 1
    return Fabric(accelerator=setting.accelerator, devices=devices, precision=setting.precision)  # type: ignore[arg-type]


def check_shares(members: Team, images: int, batch_size: int, objective: Objective) -> None:
    """Raise `TeamError` when a process would have no image of some batch, or an objective cannot be shared."""
    if members.world == 1:
        return
    rest = images - (steps_per_epoch(images, batch_size) - 1) * batch_size
    smallest = min(rest, batch_size, images)
    if smallest < members.world:
        raise TeamError(
            f"{images:,} images in batches of {batch_size} leave one of {smallest} for {members.world} processes; "
            "choose another batch_size, or fewer devices"
        )
    if state_of(objective):
        raise TeamError(
            f"the objective {type(objective).__name__} keeps a perturbation for every place of a batch from step "
            "to step and cannot be shared by processes; train with one device, or with another objective"
        )


@torch.no_grad()
def agree(members: Team, model: nn.Module, optimizer: Optimizer, values: list[Tensor]) -> None:
    """Make gradients and running statistics the team's mean, and each of `values` its sum."""
    if members.world == 1:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    running = [
        tensor
        for module in model.modules()
        if isinstance(module, _NormBase)
        for tensor in (module.running_mean, module.running_var)
        if tensor is not None
    ]
    members.add_up(values)
    members.add_up([*gradients, *running])
    for tensor in (*gradients, *running):
        tensor.div_(members.world)

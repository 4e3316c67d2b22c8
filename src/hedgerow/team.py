"""Several processes that work on one run: who they are, whose part of a batch is whose, what they agree on.

Every process runs the same program on the same data. In training each takes its part of every batch, and one
collective per step makes gradients, running statistics and logged numbers the same everywhere; only the first
process writes files. One process alone is a team of one, and nothing is communicated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from hedgerow.errors import TeamError

_PATIENCE = timedelta(hours=24)  # one process may attack its images for hours while the others are done
_part: ContextVar[tuple[slice, int] | None] = ContextVar("part of a batch", default=None)


@dataclass(frozen=True)
class Team:
    """This process, number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def own_place(self) -> tuple[str, ...]:
        """What this process adds to the place a seed is derived from: nothing in the first one."""
        return () if self.first else (f"process {self.rank}",)

    def part(self, count: int) -> slice:
        """Return which of `count` images are this process's; all parts differ by one image at most."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, all on one device, by its sum over the team; one collective, in float32 at least.

        Raises `TeamError` when another process has ended.
        """
        if self.world == 1 or not tensors:
            return
        kind = torch.float32
        for tensor in tensors:
            kind = torch.promote_types(kind, tensor.dtype)
        flat = torch.cat([tensor.detach().to(kind).flatten() for tensor in tensors])
        with _together():
            distributed.all_reduce(flat)
        for tensor, values in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    @torch.no_grad()
    def follow_first(self, tensors: Sequence[Tensor]) -> None:
        """Give each tensor the values that it has in the first process. Raises `TeamError` as `add_up`."""
        if self.world > 1:
            with _together():
                for tensor in tensors:
                    distributed.broadcast(tensor, 0)

    def wait(self) -> None:
        """Go on when all have come here. Raises `TeamError` as `add_up`."""
        if self.world > 1:
            with _together():
                distributed.barrier()


def team() -> Team:
    """Return the team that this process is in."""
    if distributed.is_available() and distributed.is_initialized():
        return Team(distributed.get_rank(), distributed.get_world_size())
    return Team()


def launch(devices: int, nodes: int, accelerator: str) -> Team:
    """Start the other processes of this machine, or join those that `torchrun` started; return the team.

    `devices` are processes on this machine, `nodes` the machines: each runs the same command, told of the others
    by `MASTER_ADDR`, `MASTER_PORT` and `NODE_RANK`. `accelerator` is `cpu` (gloo) or `cuda` (nccl). Raises
    `TeamError` for counts below 1, more devices than there are, and a count that is not what `torchrun` started.
    """
    if devices < 1 or nodes < 1:
        raise TeamError(f"devices {devices}, nodes {nodes}: both count processes and machines, from 1 on")
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise TeamError(f"devices {devices}: this machine has {torch.cuda.device_count()} CUDA devices")
    if devices * nodes == 1:
        return Team()
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    try:
        strategy = DDPStrategy(timeout=_PATIENCE)
        Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy).launch()
    except (ValueError, RuntimeError) as error:
        raise TeamError(f"cannot start {devices} processes on {nodes} machines: {error}") from error
    if accelerator == "cuda":
        torch.cuda.set_device(local_rank())
    return team()


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def working_on(part: slice, count: int) -> Iterator[None]:
    """Say that batches inside are `part` of one of `count` images, so that `drawn_like` draws for all of it."""
    before = _part.set((part, count))
    try:
        yield
    finally:
        _part.reset(before)


def drawn_like(x: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a new tensor like `x`, `[N, ...]`, filled by `fill` with random numbers.

    Inside `working_on` it is the part of what would be drawn for the whole batch, so that several processes use
    the numbers that one alone would. `x` may be several copies of the part, one after another.
    """
    share = _part.get()
    if share is None:
        return fill(torch.empty_like(x))
    part, count = share
    own = part.stop - part.start
    copies = len(x) // own
    whole = torch.empty((copies * count, *x.shape[1:]), dtype=x.dtype, device=x.device)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        whole = whole.contiguous(memory_format=torch.channels_last)
    drawn = fill(whole)
    return torch.cat([drawn[i * count + part.start : i * count + part.stop] for i in range(copies)])


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        raise TeamError(
            "another process of this run has ended, and this one stops too. Nothing that was saved is lost: give "
            f"the same command again, with as many processes as you like ({first_line})"
        ) from error

"""Which part of a batch is whose, and the noise that belongs to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hedgerow.errors import TeamError
from hedgerow.objectives import OBJECTIVES
from hedgerow.team import Team, drawn_like, launch, working_on
from hedgerow.threat import ThreatModel
from hedgerow.training.sharing import check_shares


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [7, 8, 20])
def test_parts_are_the_batch_and_differ_by_one_image_at_most(world: int, count: int) -> None:
    parts = [list(range(count))[Team(rank, world).part(count)] for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("copies", [1, 3])
def test_the_noise_of_the_parts_is_the_noise_of_the_batch(copies: int, channels_last: bool) -> None:
    batch = torch.rand(5, 3, 4, 4)
    if channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)

    def drawn(x: Tensor) -> Tensor:
        dice = torch.Generator().manual_seed(1)
        return drawn_like(torch.cat([x] * copies), lambda t: t.normal_(generator=dice))

    whole = drawn(batch).view(copies, 5, 3, 4, 4)
    found = []
    for rank in range(2):
        part = Team(rank, 2).part(5)
        with working_on(part, 5):
            found.append(drawn(batch[part]).view(copies, -1, 3, 4, 4))
    assert torch.equal(torch.cat(found, 1), whole)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_of_the_parts_are_those_of_the_batch(norm: str) -> None:
    threat, x = ThreatModel(norm, 0.2), torch.rand(6, 3, 4, 4)  # type: ignore[arg-type]
    whole = threat.random_start(x, torch.Generator().manual_seed(1))
    part = Team(1, 2).part(6)
    with working_on(part, 6):
        assert torch.equal(threat.random_start(x[part], torch.Generator().manual_seed(1)), whole[part])


def test_a_batch_with_fewer_images_than_processes_is_refused() -> None:
    objective = OBJECTIVES["natural"]()
    check_shares(Team(0, 2), 102, 50, objective)
    check_shares(Team(), 101, 50, objective)
    check_shares(Team(0, 3), 101, 50, objective)  # a last batch of one is dropped
    with pytest.raises(TeamError, match="102 images in batches of 50 leave one of 2 for 3 processes"):
        check_shares(Team(0, 3), 102, 50, objective)


def test_an_objective_that_keeps_perturbations_is_not_shared() -> None:
    with pytest.raises(TeamError, match="FreeAdversarialTraining keeps a perturbation"):
        check_shares(Team(0, 2), 100, 50, OBJECTIVES["free-at"](ThreatModel()))


@pytest.mark.parametrize(("devices", "nodes"), [(0, 1), (1, 0)])
def test_counts_below_one_are_refused(devices: int, nodes: int) -> None:
    with pytest.raises(TeamError, match="from 1 on"):
        launch(devices, nodes, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs here")
def test_more_gpus_than_there_are_are_refused() -> None:
    with pytest.raises(TeamError, match="this machine has 0 CUDA devices"):
        launch(2, 1, "cuda")

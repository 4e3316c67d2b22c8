"""Randomness as a function of where we are: no generator state has to be saved to resume exactly."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *place: object) -> int:
    """Return a 63-bit seed that depends on `seed` and on the named place (phase, epoch, step, ...)."""
    text = "/".join([str(seed), *map(str, place)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *place: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on `device`, seeded with `derive(seed, *place)`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *place))

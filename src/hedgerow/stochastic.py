"""Networks that answer differently each time: who says so, whose noise it is, how they are attacked and judged.

A module says that it is stochastic by an attribute `stochastic` that is True. With two more it takes its noise
from where it is told: `generator`, None or a `torch.Generator` to draw from, and `shared`, whether to draw the
noise of one image and give it to the whole batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.seeds import derive

_SAME = 1e-4  # relative difference of logits that kernels alone may cause


def is_stochastic(model: nn.Module) -> bool:
    """Return whether any module of `model` says that it draws random numbers when it is evaluated."""
    return bool(_sources(model))


def shares_noise(model: nn.Module) -> bool:
    """Return whether all that say that they are stochastic, and there are some, follow `drawing`."""
    return is_stochastic(model) and all(map(_follows, _sources(model)))


def _sources(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if getattr(module, "stochastic", False) is True]


def _follows(module: nn.Module) -> bool:
    return hasattr(module, "generator") and hasattr(module, "shared")


def answers_vary(model: nn.Module, x: Tensor, *, forwards: int = 4) -> bool:
    """Return whether repeated forwards of `x`, `[N, ...]`, give different logits in the mode the model is in.

    For modules that do not say that they are stochastic. Differences up to 1e-4 of the logits' norm count as the
    arithmetic of the device. The global generators are left as they were.
    """
    with torch.random.fork_rng(devices=_cuda_of(model)), torch.no_grad():
        first, *others = (model(x) for _ in range(forwards))
    limit = _SAME * torch.linalg.vector_norm(first, dim=1)
    return any(bool((torch.linalg.vector_norm(other - first, dim=1) > limit).any()) for other in others)


@contextmanager
def drawing(model: nn.Module, seed: int, *, shared: bool = True) -> Iterator[None]:
    """Let `seed` decide all noise inside, and put every generator back afterwards.

    Modules with `generator` and `shared` draw from a generator of `seed`, once for the whole batch: what an image
    gets then depends neither on its batch nor on its place in it. Without `shared` they draw for each image of a
    batch. All other draws are from torch's global generators, seeded likewise, and do depend on the batch.
    """
    device = _device_of(model)
    generator = torch.Generator(device=device).manual_seed(seed)
    layers = [module for module in _sources(model) if _follows(module)]
    before = [(layer.generator, layer.shared) for layer in layers]
    with torch.random.fork_rng(devices=_cuda_of(model)):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            _give(layers, [(generator, shared)] * len(layers))
            yield
        finally:
            _give(layers, before)


def _give(layers: list[nn.Module], sources: Sequence[tuple[object, object]]) -> None:
    for layer, (generator, shared) in zip(layers, sources, strict=True):
        layer.generator, layer.shared = generator, shared  # type: ignore[assignment]


def _device_of(model: nn.Module) -> torch.device:
    found = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if found is None else found.device


def _cuda_of(model: nn.Module) -> list[torch.device]:
    device = _device_of(model)
    return [device] if device.type == "cuda" else []


class Averaged(nn.Module):
    """A stochastic model as it is attacked and judged: give it to an attack in place of the model.

    It is judged by the mean logits of `draws` draws, which `seed` decides: one answer per image, whatever its
    batch, as far as the noise comes from layers that follow `drawing`. Gradient attacks average the gradient of
    the loss over `eot` other draws in every step (expectation over transformation, Athalye et al., 1707.07397).
    Raises `ModelError` when `eot` or `draws` is not a positive integer.
    """

    def __init__(
        self, model: nn.Module, *, eot: int = 1, draws: int = 1, seed: int = 0, place: tuple[object, ...] = ()
    ) -> None:
        super().__init__()
        for name, value in (("eot", eot), ("draws", draws)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelError(f"{name} is {value!r}; it counts draws of the noise and must be 1 or more")
        self.model = model
        self.eot, self.draws, self.seed, self.place = eot, draws, seed, place

    def at(self, *place: object) -> Averaged:
        """Return the same with other draws for the gradients, those of `place`; it is judged as before."""
        return Averaged(self.model, eot=self.eot, draws=self.draws, seed=self.seed, place=place)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits that judge `x`; a single fresh draw where `x` is to be differentiated.

        The latter is for attacks of other packages, which average the gradients of several calls themselves.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            return self.model(x)  # type: ignore[no-any-return]
        with drawing(self.model, derive(self.seed, "verdict")):
            total = self.model(x)
            for _ in range(self.draws - 1):
                total = total + self.model(x)
        return total / self.draws  # type: ignore[no-any-return]

    @torch.enable_grad()
    def gradient(self, loss: Callable[[Tensor], Tensor], x: Tensor, *place: object) -> Tensor:
        """Return the gradient at `x` of the scalar `loss(logits)`, averaged over `eot` draws.

        The draws are those of the seed and of the place, such as the step of an attack.
        """
        x = x.detach().requires_grad_()
        total = torch.zeros_like(x)
        with drawing(self.model, derive(self.seed, "gradient", *self.place, *place)):
            for _ in range(self.eot):
                total += torch.autograd.grad(loss(self.model(x)), x)[0]
        return total / self.eot

    def extra_repr(self) -> str:
        """Show the draws when the model is printed."""
        return f"eot={self.eot}, draws={self.draws}, seed={self.seed}"


def averaged(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Return `model` as an attack needs it: one that says that it is stochastic with one draw of each kind.

    A deterministic model, and one that is `Averaged` already, comes back as it is.
    """
    if isinstance(model, Averaged) or not is_stochastic(model):
        return model
    return Averaged(model, seed=seed)

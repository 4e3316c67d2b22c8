"""Does robustness survive? Every form meets the clean images, the network's own adversarial ones, and new ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from hedgerow.engines.pytorch import read_network
from hedgerow.evaluation import Evaluated, Protocol, evaluate
from hedgerow.evaluation.statistics import measure
from hedgerow.export import FORMS, predictor
from hedgerow.result import Survival
from hedgerow.threat import ThreatModel

_NO_GRADIENTS = "gives no gradients, so it is not attacked itself; the network's examples are replayed on it"


def survivals(
    model: nn.Module,
    files: Mapping[str, Path],
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    protocol: Protocol,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Survival]:
    """Return what is left of accuracy and robustness in each of `files` (by form), the network itself first.

    `x` `[N, ...]` are float32 images in [0,1], `y` `[N]` int64. `clean` is plain accuracy. `replayed` counts
    images that are right clean and under the adversarial example that PGD crafted on the network. `pgd` attacks
    the form itself, with the same seed, where its file gives back a module with gradients.
    """
    tell(f"attacking the network on {len(x)} images")
    network = evaluate(model, x, y, threat=threat, protocol=protocol)
    found = [_network(network)]
    for name, path in files.items():
        tell(f"verifying {name}")
        found.append(_form(name, path, network, x, y, threat=threat, protocol=protocol))
    return found


def _network(network: Evaluated) -> Survival:
    measures = network.record.measures
    replayed = measures["worst_case"].model_copy(update={"how": _replayed(network)})
    return Survival(
        form="network",
        measures={"clean": measures["clean"], "replayed": replayed, "pgd": measures["pgd"]},
        changed={"clean": 0, "replayed": 0, "pgd": 0},
    )


def _replayed(network: Evaluated) -> str:
    return (
        f"right on the clean image and on the one crafted on the network by {network.record.measures['pgd'].how}"
    )


def _form(
    name: str,
    path: Path,
    network: Evaluated,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    protocol: Protocol,
) -> Survival:
    answer = predictor(path)
    clean, attacked = answer(x).argmax(1), answer(network.adversarial).argmax(1)
    measures = {
        "clean": measure(clean == y, network.record.measures["clean"].how, protocol.seed),
        "replayed": measure((clean == y) & (attacked == y), _replayed(network), protocol.seed),
    }
    changed = {
        "clean": int((clean != network.clean_predictions).sum()),
        "replayed": int((attacked != network.adversarial_predictions).sum()),
    }
    if not FORMS[name].smooth:
        return Survival(form=name, measures=measures, changed=changed, note=_NO_GRADIENTS)
    module, _ = read_network(path)
    own = evaluate(module, x, y, threat=threat, protocol=protocol)
    measures["pgd"] = own.record.measures["pgd"]
    changed["pgd"] = _differing(own.record.verdicts, network.record.verdicts)
    return Survival(form=name, measures=measures, changed=changed)


def _differing(ours: Sequence[str], theirs: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(ours, theirs, strict=True))

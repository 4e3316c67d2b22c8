"""Which channel classes can go without a change of the function, and why the other dead channels stay."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hedgerow.compact.levels import Levels
from hedgerow.compact.wires import MIXING, all_wires, followed, groups_of, takes_channels
from hedgerow.tracing import Channels, Graph, Node


@dataclass
class Findings:
    """What is known of every class: bool `[classes]`; `needed[node]` is bool `[channels]`.

    `removed` can go; `live` holds a channel that varies and matters; `stuck` one that is a constant other than
    zero which `obstacle` cannot take into its bias.
    """

    removed: Tensor
    live: Tensor
    stuck: Tensor
    needed: dict[Node, Tensor] = field(default_factory=dict)
    obstacle: dict[int, str] = field(default_factory=dict)


class Search:
    """Dead channels of a graph at given levels.

    A channel matters (is needed) where a path of non-zero weights leads from it to the output. A class goes
    when each of its channels is not needed, or constant zero, or a constant that all layers that read it can
    take into their biases. What has gone needs nothing, so the search repeats until nothing more goes.
    """

    def __init__(self, graph: Graph, channels: Channels, levels: Levels, foldable: frozenset[Node]) -> None:
        self.graph, self.channels, self.levels, self.foldable = graph, channels, levels, foldable
        self.wires = all_wires(graph, channels)
        self._read: dict[Node, Tensor] = {}
        for node in graph.nodes:
            if node.op in MIXING and takes_channels(channels, node):
                weight = levels.values(node.weights["weight"])
                read = (weight.reshape(*weight.shape[:2], -1) != 0).any(2)
                self._read[node] = read.view(groups_of(node), -1, weight.shape[1])

    def __call__(self, allowed: Tensor) -> Findings:
        """Return what can go among the classes of `allowed`."""
        removed = torch.zeros(self.channels.count, dtype=torch.bool)
        while True:
            found = self._judge(removed)
            after = removed | (allowed & ~found.live & ~found.stuck)
            if torch.equal(after, removed):
                found.removed = removed
                return found
            removed = after

    def _judge(self, removed: Tensor) -> Findings:
        found = Findings(removed, torch.zeros_like(removed), torch.zeros_like(removed))
        needed = {n: torch.zeros(len(self._ids(n)), dtype=torch.bool) for n in self.graph.nodes if self._has(n)}
        if self._has(self.graph.output):
            needed[self.graph.output][:] = True
        for node in reversed(self.graph.nodes):
            if self._has(node):
                wanted = needed[node] & ~removed[self._ids(node)]
                self._mark(found, node, needed[node])
            for i, operand in enumerate(node.inputs):
                if not self._has(operand):
                    continue
                if not self._has(node):
                    needed[operand][:] = True
                else:
                    self._ask(needed[operand], found, node, i, wanted)
        found.needed = needed
        return found

    def _has(self, node: Node) -> bool:
        return followed(self.channels, node)

    def _ids(self, node: Node) -> Tensor:
        return self.channels.nodes[node.name][1]

    def _mark(self, found: Findings, node: Node, needed: Tensor) -> None:
        found.live[self._ids(node)[needed & self.levels.of[node].isnan()]] = True

    def _ask(self, asked: Tensor, found: Findings, node: Node, index: int, wanted: Tensor) -> None:
        """Mark in `asked` which channels of an operand the `wanted` channels of a node depend on."""
        operand = node.inputs[index]
        if node.op in MIXING:
            if node not in self._read:
                asked[:] = True
                return
            read = self._read[node]
            reads = (read & wanted.view(read.shape[0], -1, 1)).any(1).view(-1)
            asked |= reads
            level = self.levels.of[operand]
            if node not in self.foldable:
                held = self._ids(operand)[reads & ~level.isnan() & (level != 0)]
                found.stuck[held] = True
                found.obstacle |= dict.fromkeys(held.tolist(), node.where)
            return
        wires = [wire for wire in self.wires[node] if wire.operand == index]
        if not wires:
            asked[:] = True
        for wire in wires:
            asked[wire.source[(wanted & self._matters(node, index))[wire.target]]] = True

    def _matters(self, node: Node, index: int) -> Tensor:
        """Tell for each channel of a node whether its operand `index` has an influence on it."""
        everywhere = torch.ones(len(self._ids(node)), dtype=torch.bool)
        if node.op in ("batch_norm", "group_norm") and "weight" in node.weights:
            return self.levels.values(node.weights["weight"]) != 0
        if node.op == "mul":
            a, b = self.levels.factors[node]
            # Of two zeros one must stay a zero: the first.
            return ~((a == 0) & (b != 0)) if index else ~((b == 0) & (a != 0))
        return everywhere


def foldable_nodes(graph: Graph, bias_can_be_added: frozenset[str]) -> frozenset[Node]:
    """Return the layers that can take constant inputs into their bias exactly.

    That needs every position of the output to see the constant (no zero padding), weights of their own, and a
    bias: present, or to be added to a layer of `bias_can_be_added` (weight names).
    """
    shared = graph.shared()
    found = set()
    for node in graph.nodes:
        if node.op not in MIXING or any(node.attributes.get("padding", ())):
            continue
        own = not any(name in shared for name in node.weights.values())
        if own and ("bias" in node.weights or node.weights["weight"] in bias_can_be_added):
            found.add(node)
    return frozenset(found)


def settle(search: Search, allowed: Tensor, multiple_of: int) -> tuple[Findings, dict[int, str]]:
    """Return the final findings, and the classes kept on purpose with the reason.

    No value is left without a channel, and the layers' kept outputs are rounded up to `multiple_of` with dead
    classes. What stays may need others to stay right, so that everything is searched again after each choice.
    """
    allowed, kept = allowed.clone(), dict[int, str]()
    while True:
        found = search(allowed)
        chosen = _last_ones(search, found) or _surplus(search, found, multiple_of)
        if not chosen:
            return found, kept
        kept |= chosen
        allowed[list(chosen)] = False


def _last_ones(search: Search, found: Findings) -> dict[int, str]:
    ids = [ids for _, ids in search.channels.nodes.values() if bool(found.removed[ids].all())]
    return {int(each[0]): "no layer is left without any channel" for each in ids}


def _surplus(search: Search, found: Findings, multiple_of: int) -> dict[int, str]:
    for node in search.graph.nodes:
        if node.op not in MIXING:
            continue
        ids = search.channels.nodes[node.name][1]
        gone = found.removed[ids]
        count = int((~gone).sum())
        missing = min(len(ids), -(-count // multiple_of) * multiple_of) - count
        chosen: dict[int, str] = {}
        for each in torch.unique(ids[gone]).tolist() if missing else []:
            if missing <= 0:
                break
            chosen[each] = f"kept counts are rounded up to a multiple of {multiple_of}"
            missing -= int((ids == each).sum())
        if chosen:
            return chosen
    return {}

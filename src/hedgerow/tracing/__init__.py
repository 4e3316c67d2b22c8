"""A model as a graph of known operations: the ground on which bounds, removal, costs and runtimes stand."""

from hedgerow.tracing.channels import Channels, channel_classes
from hedgerow.tracing.flops import Flops, LayerFlops, flops
from hedgerow.tracing.graph import trace
from hedgerow.tracing.nodes import BatchSize, Graph, Node, Operand, Shape, concrete
from hedgerow.tracing.run import evaluate, run
from hedgerow.tracing.undisturbed import plain_weights, undisturbed
from hedgerow.tracing.vocabulary import OPS

__all__ = [
    "OPS",
    "BatchSize",
    "Channels",
    "Flops",
    "Graph",
    "LayerFlops",
    "Node",
    "Operand",
    "Shape",
    "channel_classes",
    "concrete",
    "evaluate",
    "flops",
    "plain_weights",
    "run",
    "trace",
    "undisturbed",
]

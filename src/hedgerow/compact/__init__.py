"""From masks to bytes: what is dead is removed, what lives is stored by its non-zeros."""

from hedgerow.compact.closing import close_dead, removable
from hedgerow.compact.record import KeptDead, LayerRemoval, Removal
from hedgerow.compact.shrink import Shrunk, shrink
from hedgerow.compact.sparse_file import SparseNetwork, SparseTensor, read_sparse, write_sparse

__all__ = [
    "KeptDead",
    "LayerRemoval",
    "Removal",
    "Shrunk",
    "SparseNetwork",
    "SparseTensor",
    "close_dead",
    "read_sparse",
    "removable",
    "shrink",
    "write_sparse",
]

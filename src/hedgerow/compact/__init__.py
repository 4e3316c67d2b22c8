"""From masks to bytes: what is dead is removed, what lives is stored by its non-zeros."""

from hedgerow.compact.sparse_file import SparseNetwork, SparseTensor, read_sparse, write_sparse

__all__ = ["SparseNetwork", "SparseTensor", "read_sparse", "write_sparse"]

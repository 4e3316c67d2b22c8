"""Hedgerow prunes neural networks 10x to 100x, keeps them adversarially robust, and proves it."""

__version__ = "0.1.0"

"""Caches in the transformers Trainer: `KDTrainer`."""

from kdcache.hf.trainer import KDTrainer

__all__ = ["KDTrainer"]

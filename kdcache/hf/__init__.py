"""`KDTrainer`: train with a cache in the transformers Trainer."""

from kdcache.hf.trainer import KDTrainer

__all__ = ["KDTrainer"]

"""Caches to and from the Hugging Face hub: `kdcache push` and `kdcache pull`. See docs/sharing.md."""

from kdcache.checkpoints.sharing.pull import pull
from kdcache.checkpoints.sharing.push import push

__all__ = ["pull", "push"]

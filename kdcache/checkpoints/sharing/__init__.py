"""Upload caches to the Hugging Face hub and download them: `kdcache push`, `kdcache pull`. See docs/sharing.md."""

from kdcache.checkpoints.sharing.pull import pull
from kdcache.checkpoints.sharing.push import push

__all__ = ["pull", "push"]

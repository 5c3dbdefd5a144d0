"""The `kdcache` command: what people ask a study file or a logit cache.

`commands` has the commands. Each has its answer from a module beside it (`analysis`, `against`, `compare_runs`,
`exports`, `head`, `keeping`, `plans`), and `printing` shows it to people.
"""

from kdcache.cli.commands import app, main

__all__ = ["app", "main"]

"""The `kdcache` command: what people ask a study file or a logit cache.

`app` is the application, `study_commands` and `cache_commands` have the commands. Each has its answer from a module
beside it (`analysis`, `against`, `compare_runs`, `exports`, `head`, `keeping`, `plans`). `printing` shows it to people.
"""

from kdcache.cli import cache_commands, study_commands
from kdcache.cli.app import app, main

__all__ = ["app", "cache_commands", "main", "study_commands"]

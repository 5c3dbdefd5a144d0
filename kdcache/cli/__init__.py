"""The `kdcache` command, for questions about a study file or a logit cache.

`app` is the application. `study_commands` and `cache_commands` have the commands. Each command gets its answer from
another module (`analysis`, `against`, `compare_runs`, `exports`, `head`, `keeping`, `plans`), and `printing` shows the
answer to people.
"""

from kdcache.cli import cache_commands, study_commands
from kdcache.cli.app import app, main

__all__ = ["app", "cache_commands", "main", "study_commands"]

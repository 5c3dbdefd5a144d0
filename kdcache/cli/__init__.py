"""The `kdcache` command: what people ask a study file or a logit cache.

`app` has the commands, `tables` what they print for people, `exports` the files that `kdcache export` writes,
`against` the re-run of a teacher for `kdcache verify --against`, and `plans` what `kdcache plan` finds.
"""

from kdcache.cli.commands import app, main

__all__ = ["app", "main"]

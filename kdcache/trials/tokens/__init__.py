"""Trials, teachers and caches of language models: what they keep, and how that is made and checked."""

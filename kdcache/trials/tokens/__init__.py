"""Trials, teachers and caches of language models: what is kept of them, and how it is made and checked."""

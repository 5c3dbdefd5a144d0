"""Logits into students: soft labels, divergences, regularizers, and the training loop.

Every module here is part of a trial's identity (`kdcache.trials.code`): what it computes decides results.
"""

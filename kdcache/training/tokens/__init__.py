"""Distributions at every token into language models: the losses, and the training loop on packed sequences.

Every module here is part of the identity of what is trained on documents (`kdcache.trials.code`), and of nothing else.
"""

"""A model's logits on rows: which rows share a batch, in which view, and in what order the logits come out.

Every module here is part of a trial's and a cache's identity (`kdcache.trials.code`), because it decides results.
"""

"""Rows into logits: preprocessors, models, encoding, augmentation, batches, predicting.

Every module here is part of a trial's identity (`kdcache.trials.code`): what it computes decides results.
"""

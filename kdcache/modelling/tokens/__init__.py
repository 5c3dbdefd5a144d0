"""Language models: documents into packed sequences, and sequences into log-likelihoods.

Every module here is part of the identity of what is trained on documents (`kdcache.trials.code`), and of nothing else.
"""

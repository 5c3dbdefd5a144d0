"""Teachers, their caches, and trials: their identities, which results are still valid, and running what is missing."""

"""What the logit cache costs and saves, beside what else one could use; `python -m benchmarks.cache` measures it."""

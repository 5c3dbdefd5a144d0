"""What the logit cache costs and saves, compared with alternatives; `python -m benchmarks.cache` measures it."""

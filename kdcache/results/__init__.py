"""From trials to metrics/: gathered, scored, written, read."""

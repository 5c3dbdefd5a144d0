"""From trials to metrics/: results are gathered, checked, scored, written and read."""

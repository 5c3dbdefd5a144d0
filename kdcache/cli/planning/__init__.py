"""Estimate what a study takes before it runs: stages, steps, hours and bytes."""

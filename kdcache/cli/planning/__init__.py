"""What a study takes, before it runs: its stages, steps, hours and bytes."""

"""What is kept: teachers, their caches, and trials; their identities, and what is still valid."""

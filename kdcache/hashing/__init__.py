"""Hashes that tell whether two things are the same: row hashes, and fingerprints of JSON, values and files."""

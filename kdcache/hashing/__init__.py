"""Hashes that tell whether two things are the same: of a row, and fingerprints of JSON, values and files."""

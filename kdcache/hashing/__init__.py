"""What makes two things the same: the hash of a row, and fingerprints of JSON, values and files."""

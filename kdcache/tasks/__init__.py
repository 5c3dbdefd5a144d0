"""Prepare tasks: read rows from a source, check labels, texts and images, and write the prepared task."""

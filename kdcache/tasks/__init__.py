"""A row's way in: sources, columns, labels, texts, images, and the prepared task that they become."""

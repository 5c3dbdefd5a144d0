"""Where models come from: a folder, the Hugging Face hub, or a mirror of it. Caches to and from the hub."""

"""Where models come from: a folder, the Hugging Face hub, or a mirror of it. Caches are shared on the hub."""

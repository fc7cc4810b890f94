"""Files: written whole or not at all, tensors, other people's checkpoints, hubs, model names."""

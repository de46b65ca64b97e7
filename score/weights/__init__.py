"""Weights on disk: the model folder, the registry of towers, the released checkpoints."""

"""Trees that a build copies from and writes into: selecting, hashing, copying. Knows nothing of instructions."""

"""Model structures, by the architecture name a checkpoint states."""

"""Checkpoints made smaller: `openinference quantize`, from float weights to codes and scales."""

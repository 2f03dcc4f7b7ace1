"""Where weights come from: a URI becomes a checkpoint, a checkpoint gives named tensors."""

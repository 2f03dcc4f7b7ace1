"""Text to token ids and back, and the chat template; built from a checkpoint's own metadata."""

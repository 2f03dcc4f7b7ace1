"""The parts models are made of; each owns its weights and how they are laid out."""

"""Pure builders of the objects that the operator creates, one module per kind of concern."""

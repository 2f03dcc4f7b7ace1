"""The control plane: InferenceServices in, StatefulSets, routes, scaling and status out."""

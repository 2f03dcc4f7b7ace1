"""The face of the project: the command line `openinference` and the Python SDK."""

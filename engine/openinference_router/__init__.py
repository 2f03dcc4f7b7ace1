"""The front door of a namespace: admit, queue, choose, retry and resume, for all its services."""

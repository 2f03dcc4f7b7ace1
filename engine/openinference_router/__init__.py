"""The front door of a namespace: admit, queue, choose and retry; one Deployment for all services."""

"""Where demand is measured: the routers' own state, and Prometheus."""

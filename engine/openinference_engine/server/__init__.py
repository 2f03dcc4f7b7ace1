"""The OpenAI-compatible HTTP server: one aiohttp application, no torch."""

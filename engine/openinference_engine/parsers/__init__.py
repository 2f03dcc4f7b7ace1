"""Parsers of answers: reasoning and tool calls found in text, piece by piece. No torch, no HTTP."""

"""A replica as a group of ranks: who computes what, how they meet, talk and end (ADR 9)."""

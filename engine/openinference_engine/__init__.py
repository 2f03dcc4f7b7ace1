"""The data plane: scheduler, paged KV cache, models, ops and the OpenAI server of one replica."""

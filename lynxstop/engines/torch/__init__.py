"""Device arithmetic shared by the transformers and vLLM engines."""

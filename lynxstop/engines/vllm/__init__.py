"""The plugin for vLLM: early exit inside the engine, on both of its model runners."""

"""A small real server of the OpenAI API whose model is a toy: for tests of clients and proxies."""

"""Recorded data sets: problems, tables, shards and stores."""

"""Fakes and helpers that the tests share; one file each."""

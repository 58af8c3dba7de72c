"""Encodings of typed tables: cells, and continuous transforms for flows."""

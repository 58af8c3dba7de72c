"""Planted bugs: each known way of losing the guarantee, as a patch, with the tests that must object."""

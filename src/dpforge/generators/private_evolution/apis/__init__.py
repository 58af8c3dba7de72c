"""Public image generators behind one protocol, one file each; loaded on first use."""

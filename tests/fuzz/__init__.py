"""Random damage to the files that are read back; ``python -m tests.fuzz`` runs until a time limit."""

"""Other people's systems, each run in a virtual environment of its own."""

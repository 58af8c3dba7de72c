"""Searches over configurations, and what they cost: the sweeper behind ``sweep=optuna``."""

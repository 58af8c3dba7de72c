"""Launchers of dpforge: thin covers of joblib, submitit and ray that bring back what became of every run."""

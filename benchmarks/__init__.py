"""Speed and memory of DP training, as ratios measured in one run."""

"""Reports: self-contained pages about one run or about all runs of a study."""

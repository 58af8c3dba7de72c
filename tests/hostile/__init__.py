"""Input that is broken, absurd or meant to harm: refused by a typed error or handled, and never obeyed."""

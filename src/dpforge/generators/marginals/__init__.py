"""Generators that measure marginals and fit a graphical model to them: MST and AIM."""

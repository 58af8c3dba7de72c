"""Private Evolution: images of a public generator, chosen by noisy votes of private ones."""

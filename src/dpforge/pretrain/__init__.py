"""A small class-conditional pixel diffusion model, trained on public images alone."""

"""Diffusion models as Markov decision processes."""

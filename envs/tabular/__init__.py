"""Finite Markov decision processes with their optimum."""

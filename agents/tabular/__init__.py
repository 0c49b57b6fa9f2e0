"""Agents for finite Markov decision processes."""

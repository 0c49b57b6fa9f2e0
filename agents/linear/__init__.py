"""Least-squares value iteration with features."""

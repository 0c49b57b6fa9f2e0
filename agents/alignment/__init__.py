"""Agents that learn to write from rewards, preferences and demonstrations."""

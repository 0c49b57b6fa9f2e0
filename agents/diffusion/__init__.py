"""Agents that fine-tune, steer or search the samplers of diffusion models."""

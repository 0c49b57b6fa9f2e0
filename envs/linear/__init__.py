"""Finite MDPs whose rewards and transitions are linear in known features."""

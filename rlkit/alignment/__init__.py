"""Losses and estimators of alignment from preferences and rewards."""

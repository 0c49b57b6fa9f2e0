"""Token MDPs with known optimum."""

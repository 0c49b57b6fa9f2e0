"""Networks whose weights carry the replica dimension: `N` of them are trained at once.

Parameters are trees of tensors that lead with `N`; functions are pure and differentiable.
"""

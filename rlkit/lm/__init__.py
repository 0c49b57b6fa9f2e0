"""Alignment of real language models: the same agents on a causal model from a local folder.

Needs the extra `lm` (transformers). Nothing is downloaded and no file is executed.
"""

"""Reward fine-tuning of real image diffusion models: FIND and DDPO on a local `diffusers` folder.

Needs the extra `diffusion`. Nothing is downloaded and no file of a folder is executed.
"""

"""What training a language model and training an image model share: runs, models, commands."""

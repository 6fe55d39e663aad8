"""Images in files: which there are, how they are decoded, and in which split."""

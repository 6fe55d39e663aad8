"""Settings: which network, which data, how to train. Nothing here imports torch, so the command line starts at once."""

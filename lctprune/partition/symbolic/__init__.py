"""A network's graph in both modes, by torch.fx."""

"""A network's graph by torch.export, where torch.fx cannot follow its code."""

"""Training by several processes: which process holds which groups, and how they reach each other."""

"""Training by several processes: who holds which groups, and how they reach each other."""

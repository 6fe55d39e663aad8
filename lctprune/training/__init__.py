"""Training: how is a run trained?"""

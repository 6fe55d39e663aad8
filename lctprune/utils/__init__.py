"""Helpers that know nothing of the method: modules, files, the environment."""

"""Texts with labels: files and vocabularies."""

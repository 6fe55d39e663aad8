"""Workflows: what can be done with a run?"""

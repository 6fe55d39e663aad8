"""Measurements: how good is a network, what does it cost, and which one do I take?"""

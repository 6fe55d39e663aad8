"""Cutting: where can my network be cut into groups?"""

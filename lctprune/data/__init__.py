"""Data: what can I train on?"""

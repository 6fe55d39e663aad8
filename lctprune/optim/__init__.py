"""Optimisers and schedules: how are weights changed?"""

"""How can a network be made narrower?"""

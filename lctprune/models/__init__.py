"""Networks: which ones go by name, and with which weights?"""

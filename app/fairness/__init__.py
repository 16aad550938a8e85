"""Share what is scarce between clients: whose request is running, whose turn is next, how much each holds.

Knows names of clients and costs. Knows nothing of HTTP, images or models.
"""

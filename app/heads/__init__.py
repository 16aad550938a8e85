"""Heads: classifiers that are fitted from a few labelled vectors of a frozen network, and where they are kept.

In: vectors of length 1 with their classes. Out: a `Head`, which gives probabilities, says how far a vector lies from
everything that it has seen, and is written to a file and read from it. Knows nothing of HTTP, images or networks.
"""

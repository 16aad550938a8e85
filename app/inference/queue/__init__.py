"""The bounded queue between requests and the device: what is accepted, what is taken next, how long it will take.

Knows costs, deadlines and names of clients. Knows nothing of images, networks or HTTP.
"""

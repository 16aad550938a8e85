"""Observe the service: metrics, log lines, traces, and the timings of a request.

Knows names and numbers. Knows nothing of images, models or HTTP.
"""

"""The HTTP API: one module per endpoint or group of endpoints, each readable from top to bottom.

Knows requests, responses and the OpenAPI document. It does not decode images and does not run the model:
`app/service` does both.
"""

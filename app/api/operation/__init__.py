"""The endpoints for operators and browsers: health, metrics, the model's description, the playground.

None of them takes an image.
"""

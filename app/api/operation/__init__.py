"""The endpoints for operators and for people: health, metrics, the model's description, the page.

None of them takes an image.
"""

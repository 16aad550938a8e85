"""The endpoints that take images: POST /classify, /embed, /attention, /features and /preprocess.

One module per endpoint. Knows how answers are written as JSON, `.npy` and PNG.
"""

"""Read the headers of requests that ask for something of the response, whatever its content is.

origins: which origins may read a response (CORS). Knows nothing of images, models or routes.
"""

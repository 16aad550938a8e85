"""Read the headers of requests that ask for something of the response, whatever its content is.

origins: which origins may read a response (CORS). proxy: the client, the scheme and the path, as a proxy says.
Knows nothing of images, models or routes.
"""

"""Read the headers of requests that ask for something of the response, or say how the request is written.

origins: which origins may read a response (CORS). proxy: the client, the scheme and the path, as a proxy says.
quality: weights of Accept and Accept-Encoding. coding: bodies that are compressed. compression: of responses.
Knows nothing of images, models or routes.
"""

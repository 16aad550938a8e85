"""Exit 0 while the service of this container takes requests; needs nothing but the standard library."""

import http.client
import os
import sys

PORT = int(os.environ.get("VITRINE_PORT") or 8000)

# Straight to the port: urllib would go through a proxy that the environment names.
connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=4)
try:
    connection.request("GET", "/readyz")
    sys.exit(connection.getresponse().status != http.client.OK)
except OSError:
    sys.exit(1)

"""Exit with status 0 while the service in this container is ready. Uses only the standard library."""

import http.client
import os
import sys

PORT = int(os.environ.get("VITRINE_PORT") or 8000)

# http.client connects directly; urllib would use a proxy from the environment.
connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=4)
try:
    connection.request("GET", "/readyz")
    sys.exit(connection.getresponse().status != http.client.OK)
except OSError:
    sys.exit(1)

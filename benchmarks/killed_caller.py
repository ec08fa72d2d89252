"""A caller of the soak test that is killed while it reads; it imports little, since a new one starts every second.

python -m benchmarks.killed_caller PORT BODY        BODY: a request to /sample
"""

import http.client
import sys
import time

REFUSED = (429, 503)


def stream(port: int, body: str) -> None:
    """Send a request and read its stream, again and again; wait as long as a refusal says."""
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/sample", body, headers)
        answer = connection.getresponse()
        print("asked", flush=True)
        answer.read()
        connection.close()
        if answer.status in REFUSED:
            time.sleep(float(answer.getheader("Retry-After", "1")))


if __name__ == "__main__":
    stream(int(sys.argv[1]), sys.argv[2])

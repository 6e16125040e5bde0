"""waitress alone, with the same response to every request: the limit for any application on it.

Run as `python ceiling.py PORT`. It configures waitress like fense-admin.
"""

import logging
import sys

import waitress

from fense_admin.settings import Limits

BODY = (
    b'{"fense_account_id": 1, "name": "Merchant 1", "email": "owner1@merchant.example", '
    b'"api_key_last4": "0001", "suppress_notifications": false, "suppress_billing": false, '
    b'"is_active": true, "dispute_account_id": null, "created_at": "2026-11-01T00:00:00Z", '
    b'"updated_at": "2026-11-01T00:00:00Z"}'
)
HEADERS = [
    ("Content-Type", "application/json"),
    ("Content-Length", str(len(BODY))),
    ("Cache-Control", "no-store"),
    ("X-Request-Id", "37007d85f1bb8f16"),
]


def app(environ, start_response):
    start_response("200 OK", HEADERS)
    return [BODY]


if __name__ == "__main__":
    limits = Limits()
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    served = waitress.create_server(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        threads=4,
        ident=None,
        asyncore_use_poll=True,
        connection_limit=limits.connections,
        channel_timeout=limits.idle,
        max_request_header_size=limits.header,
        max_request_body_size=limits.read_body + 1,
    )
    served.adj.send_bytes = 18000
    served.run()

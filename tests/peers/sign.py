"""Signs requests by oauthlib: reads a JSON list of them, writes one of what is to be sent."""

import json
import sys

from oauthlib.oauth1 import SIGNATURE_TYPE_AUTH_HEADER, SIGNATURE_TYPE_QUERY, Client


def signed(request):
    client = Client(
        request["client"],
        client_secret=request["secret"],
        signature_method=request["method"],
        signature_type=SIGNATURE_TYPE_QUERY if request["in_query"] else SIGNATURE_TYPE_AUTH_HEADER,
        realm="doorbell" if request.get("realm") else None,
    )
    url, headers, _ = client.sign(request["url"])
    return {"url": url, "authorization": headers.get("Authorization")}


json.dump([signed(request) for request in json.load(sys.stdin)], sys.stdout)

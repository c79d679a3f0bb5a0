"""A token of the workspace token service, for a notebook or a job. Copy this file; it needs Python 3.8.

    import wts_token
    requests.get(url, headers={"Authorization": "Bearer " + wts_token.get()})

It reads the file that a sidecar keeps fresh (BEARER_TOKEN_FILE, or /var/run/wts/token); without one it
asks the service itself (WTS_URL), proving itself by WTS_PROOF_FILE where that is set, else by its address.
"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request


class TokenError(Exception):
    """No token could be had. `status` is the service's HTTP status, 0 where it did not answer."""

    def __init__(self, message, status=0):
        super().__init__(message)
        self.status = status


def get(audience=None, idp=None, expires=600):
    """A token as a string: for an audience, of a provider, or whatever the sidecar was told to get."""
    path = os.environ.get("BEARER_TOKEN_FILE", "/var/run/wts/token")
    if audience is None and idp is None and os.path.exists(path):
        with open(path) as file:
            return file.read().strip()
    return _ask(audience, idp, expires)


def _ask(audience, idp, expires):
    url = os.environ.get("WTS_URL")
    if not url:
        raise TokenError("neither BEARER_TOKEN_FILE nor WTS_URL leads to a token")
    wanted = {"audience": audience, "idp": idp, "expires": str(int(expires))}
    query = urllib.parse.urlencode({name: value for name, value in wanted.items() if value is not None})
    request = urllib.request.Request(url.rstrip("/") + "/token?" + query, headers={"Accept": "application/json"})
    proof = os.environ.get("WTS_PROOF_FILE")
    if proof:
        with open(proof) as file:
            request.add_header("Authorization", "Bearer " + file.read().strip())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["token"]
    except urllib.error.HTTPError as failure:
        try:
            said = json.load(failure)
            message = said.get("message") or said.get("error")
        except ValueError:
            message = failure.reason
        raise TokenError(message, failure.code) from None
    except (urllib.error.URLError, ValueError, KeyError) as failure:
        raise TokenError("the token service does not answer: %s" % failure) from None


if __name__ == "__main__":
    print(get())

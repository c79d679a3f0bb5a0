"""Tokens of the workspace token service, for a notebook or a job. Copy this file; it needs Python 3.8 and no package.

    import wts_token
    requests.get("https://files.example.org/x", auth=wts_token.Auth("files.example.org"))
    httpx.Client(auth=wts_token.Auth("files.example.org", audience="files"))

It reads the file that a sidecar or `wts exec` keeps valid (BEARER_TOKEN_FILE, or /var/run/wts/token). Where there is
none, or an audience or a provider is named, it asks the service itself (WTS_URL), proving itself by WTS_PROOF_FILE where
that is set, else by its address. Where you have to log in first, the error says where; a notebook shows a button.
"""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request

__all__ = ["Auth", "TokenError", "aiohttp_client", "get"]


class TokenError(Exception):
    """No token could be had. `status` is the service's HTTP status, 0 where it did not answer; `connect_url` is where to
    log in, None where that does not help."""

    def __init__(self, message, status=0, connect_url=None):
        super().__init__(message if connect_url is None else "%s. Log in at %s" % (message, connect_url))
        self.status = status
        self.connect_url = connect_url


def get(audience=None, idp=None, expires=600, scope=None):
    """A token as a string: for an audience, of a provider, or whatever the sidecar was told to get. `expires` is the
    life that is wanted, in seconds. Ask each time that you need one: it is remembered for as long as it is good."""
    path = os.environ.get("BEARER_TOKEN_FILE", "/var/run/wts/token")
    if audience is None and idp is None and os.path.exists(path):
        with open(path) as file:
            return file.read().strip()
    wanted = {"audience": audience, "idp": idp, "expires": str(int(expires)), "scope": scope}
    query = urllib.parse.urlencode({name: value for name, value in sorted(wanted.items()) if value is not None})
    token, until = _remembered.get(query, (None, 0))
    if time.time() >= until:
        token, life = _ask(query)
        _remembered[query] = token, time.time() + life / 2
    return token


_remembered = {}  # the query: a token, and until when it is handed out again


def _ask(query):
    url = os.environ.get("WTS_URL")
    if not url:
        raise TokenError("neither BEARER_TOKEN_FILE nor WTS_URL leads to a token")
    request = urllib.request.Request(url.rstrip("/") + "/token?" + query, headers={"Accept": "application/json"})
    proof = os.environ.get("WTS_PROOF_FILE")
    if proof:
        with open(proof) as file:
            request.add_unredirected_header("Authorization", "Bearer " + file.read().strip())  # for this service alone
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            said = json.load(answer)
            return said["token"], said.get("expires_in", 0)
    except urllib.error.HTTPError as failure:
        raise _refused(failure) from None
    except (urllib.error.URLError, OSError, ValueError, KeyError) as failure:
        raise TokenError("the token service does not answer: %s" % failure) from None


def _refused(failure):
    try:
        said = json.load(failure)
    except ValueError:
        said = {}
    connect = said.get("connect_url")
    if connect:
        _show_login(connect)
    return TokenError(said.get("message") or said.get("error") or failure.reason, failure.code, connect)


def _show_login(address):
    """Shows a button in a notebook; does nothing elsewhere."""
    if not address.startswith(("https://", "http://")):
        return
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        return
    if not hasattr(get_ipython(), "kernel"):
        return
    import html

    link = '<a href="%s" target="_blank" rel="noopener" style="%s">Log in to go on</a>'
    style = "display:inline-block;padding:.5em 1em;border-radius:4px;background:#1a5fb4;color:#fff;text-decoration:none"
    display(HTML(link % (html.escape(address, quote=True), style)))


class Auth:
    """Adds a valid token to the requests of `requests` and of `httpx`, for the hosts that are named and for no other:

        session = requests.Session()
        session.auth = wts_token.Auth("files.example.org", audience="files")

    A host is named as in an address, with its port where that has one. What is not encrypted gets a token on this
    machine alone."""

    def __init__(self, *hosts, **wanted):
        if not hosts:
            raise ValueError("name the hosts that may have the token, as in Auth('files.example.org')")
        self.hosts = {host.lower() for host in hosts}
        self.wanted = wanted

    def __call__(self, request):
        if self.may_have(str(request.url)):
            request.headers["Authorization"] = "Bearer " + get(**self.wanted)
        return request

    def may_have(self, address):
        """Tells whether a token may be sent to an address."""
        parts = urllib.parse.urlsplit(address)
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        return parts.netloc.rpartition("@")[2].lower() in self.hosts and (parts.scheme == "https" or here)


def aiohttp_client(*hosts, **wanted):
    """What fsspec is given, so that each request of its HTTP file system has a valid token:

        files = fsspec.filesystem("https", get_client=wts_token.aiohttp_client("files.example.org", audience="files"))
    """
    auth = Auth(*hosts, **wanted)

    async def client(**settings):
        import aiohttp

        async def begin(session, context, request):
            if auth.may_have(str(request.url)):
                request.headers["Authorization"] = "Bearer " + get(**wanted)

        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(begin)
        return aiohttp.ClientSession(trace_configs=[tracing], **settings)

    return client


if __name__ == "__main__":
    print(get())

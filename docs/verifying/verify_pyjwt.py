"""Verifies a token of wts with PyJWT: python3 verify_pyjwt.py <issuer> <audience> < token"""
import base64
import json
import sys
import time
import urllib.request
import zlib

import jwt


class Verifier:
    """Keep one for as long as the service runs: it keeps the keys and the status lists."""

    ALGORITHMS = ["ES256", "RS256", "EdDSA"]

    def __init__(self, issuer, audience):
        self.issuer, self.audience, self.lists = issuer, audience, {}
        with urllib.request.urlopen(issuer + "/.well-known/openid-configuration", timeout=10) as answer:
            self.keys = jwt.PyJWKClient(json.load(answer)["jwks_uri"])

    def verify(self, token):
        """Returns the claims of a good token. Anything else raises jwt.PyJWTError."""
        if jwt.get_unverified_header(token).get("typ") != "at+jwt":
            raise jwt.InvalidTokenError("not an access token")
        claims = jwt.decode(
            token, self.keys.get_signing_key_from_jwt(token).key, algorithms=self.ALGORITHMS,
            issuer=self.issuer, audience=self.audience, options={"require": ["exp", "iat", "iss", "aud", "sub", "jti"]},
        )
        if "status" in claims and self._revoked(**claims["status"]["status_list"]):
            raise jwt.InvalidTokenError("revoked")
        return claims

    def _revoked(self, idx, uri):
        """Looks a token up in its status list (draft-ietf-oauth-status-list): API tokens have one, minted ones do not."""
        if not uri.startswith(self.issuer + "/"):
            raise jwt.InvalidTokenError("the status list is not the issuer's")
        fresh_until, bits, statuses = self.lists.get(uri, (0, 1, b""))
        if time.time() >= fresh_until:
            with urllib.request.urlopen(uri, timeout=10) as answer:
                token = answer.read(256 * 1024).decode()
            if jwt.get_unverified_header(token).get("typ") != "statuslist+jwt":
                raise jwt.InvalidTokenError("no status list")
            listed = jwt.decode(token, self.keys.get_signing_key_from_jwt(token).key, algorithms=self.ALGORITHMS)
            if listed["sub"] != uri:
                raise jwt.InvalidTokenError("another status list")
            bits, packed = listed["status_list"]["bits"], listed["status_list"]["lst"]
            statuses = zlib.decompress(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
            self.lists[uri] = time.time() + listed.get("ttl", 60), bits, statuses
        return statuses[idx * bits // 8] >> (idx * bits % 8) & ((1 << bits) - 1) != 0


if __name__ == "__main__":
    try:
        print(json.dumps(Verifier(*sys.argv[1:3]).verify(sys.stdin.read().strip())))
    except jwt.PyJWTError as error:
        sys.exit(f"{type(error).__name__}: {error}")

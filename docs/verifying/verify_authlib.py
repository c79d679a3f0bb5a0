"""Verifies a token of wts with Authlib: python3 verify_authlib.py <issuer> <audience> < token

It reads no status list: for minted tokens, which live for minutes."""
import json
import sys
import urllib.request

from authlib.jose import JsonWebKey, JsonWebToken
from authlib.jose.errors import JoseError


def fetch(address):
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)


def verify(token, issuer, audience):
    """Returns the claims of a good token. A service keeps the keys for five minutes instead of fetching them here."""
    keys = JsonWebKey.import_key_set(fetch(fetch(issuer + "/.well-known/openid-configuration")["jwks_uri"]))
    claims = JsonWebToken(["ES256", "RS256", "EdDSA"]).decode(token, keys, claims_options={
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "value": audience},
        "exp": {"essential": True},
    })
    claims.validate()
    if claims.header.get("typ") != "at+jwt":
        raise JoseError("typ", "not an access token")
    if "status" in claims:
        raise JoseError("status", "a token that can be revoked; ask its status list")
    return claims


if __name__ == "__main__":
    try:
        print(json.dumps(verify(sys.stdin.read().strip(), *sys.argv[1:3])))
    except (JoseError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")

"""The flows of RFC 6749, 7636, 8628, 8693, 7662 and 7009 by a client that is not ours, Authlib.

    flows.py <issuer> <redirect uri> <audience> <the audience's secret>

It prints `open <address>` for the browser, and reads where that ended up; then `<step>: <what came of it>`.
"""
import os
import sys
import time
from urllib.parse import parse_qs, urlsplit

os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # on this machine alone

import requests
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

issuer, redirect_uri, audience, secret = sys.argv[1:]
server = requests.get(issuer + "/.well-known/oauth-authorization-server").json()
token_endpoint = server["token_endpoint"]
exchange_grant = "urn:ietf:params:oauth:grant-type:token-exchange"
access_token = "urn:ietf:params:oauth:token-type:access_token"


def public(name):
    return OAuth2Session(name, token_endpoint_auth_method="none", code_challenge_method="S256", redirect_uri=redirect_uri)


def open_browser(address):
    print("open", address, flush=True)
    return sys.stdin.readline().strip()


def said(step, work):
    """said is how a step ended: what it gives, or the error of the RFC."""
    try:
        result = work()
    except OAuthError as error:
        result = error.error
    if isinstance(result, bool):
        result = str(result).lower()
    print(f"{step}: {result}", flush=True)


def code_for(**more):
    """code_for has the person allow it in their browser."""
    session, verifier = public("lasting"), generate_token(48)
    wish = {"scope": "read", "audience": audience, **more}
    session.scope = wish.pop("scope")
    address, state = session.create_authorization_url(server["authorization_endpoint"], code_verifier=verifier, **wish)
    return session, open_browser(address), verifier, state


def redeem(session, back, verifier, state):
    answer = parse_qs(urlsplit(back).query)
    if "error" in answer:  # Authlib leaves that to its caller, as it does the issuer of the answer (RFC 9207)
        raise OAuthError(answer["error"][0])
    if answer["iss"] != [issuer]:
        raise OAuthError("mix_up")
    return session.fetch_token(token_endpoint, authorization_response=back, code_verifier=verifier, state=state)


def introspect(key, token):
    session = OAuth2Session(audience, key, token_endpoint_auth_method="client_secret_basic")
    found = session.introspect_token(server["introspection_endpoint"], token=token).json()
    if "error" in found:
        raise OAuthError(found["error"])
    return found


def refresh(token, **more):
    return public("lasting").refresh_token(token_endpoint, refresh_token=token, **more)


def begin(name="lasting", **more):
    found = requests.post(server["device_authorization_endpoint"], data={"client_id": name, "scope": "read", **more}).json()
    if "error" in found:
        raise OAuthError(found["error"])
    return found


def poll(device, name="lasting"):
    while True:
        try:
            return public(name).fetch_token(
                token_endpoint, grant_type="urn:ietf:params:oauth:grant-type:device_code", device_code=device["device_code"])
        except OAuthError as error:
            if error.error not in ("authorization_pending", "slow_down"):
                raise
            time.sleep(1)


first = code_for()
tokens = redeem(*first)
said("code", lambda: f"{tokens['token_type'].lower()} {tokens['scope']} {str(tokens['expires_in'] > 0).lower()} {str('refresh_token' in tokens).lower()}")


def introspection():
    found = introspect(secret, tokens["access_token"])
    return f"{str(found['active']).lower()} {found['username']} {found['client_id']} {found['scope']}"


said("introspection", introspection)
said("introspection of what is no token", lambda: introspect(secret, "nonsense")["active"])
said("introspection by an impostor", lambda: introspect("wrong", tokens["access_token"]))
said("a code again", lambda: redeem(*first))
said("what the code began", lambda: refresh(tokens["refresh_token"]))


def other_verifier():
    session, back, _, state = code_for()
    return redeem(session, back, generate_token(48), state)


said("another verifier", other_verifier)
said("a scope that is none", lambda: redeem(*code_for(scope="everything")))
said("another audience", lambda: redeem(*code_for(audience="other")))

second = redeem(*code_for())
third = refresh(second["refresh_token"])
said("refresh", lambda: f"{third['scope']} {str(third['refresh_token'] != second['refresh_token']).lower()}")
said("refresh with more scopes", lambda: refresh(third["refresh_token"], scope="read write"))
said("a refresh token again", lambda: refresh(second["refresh_token"]))
said("after that", lambda: refresh(third["refresh_token"]))

device = begin(audience=audience)
open_browser(device["verification_uri_complete"])
fourth = poll(device)
said("device", lambda: f"{fourth['token_type'].lower()} {fourth['scope']}")
denied = begin(audience=audience)
open_browser(denied["verification_uri_complete"] + "&deny")
said("a device that is denied", lambda: poll(denied))
said("a device that is unknown", lambda: begin("stranger"))
said("revocation", lambda: "done" if public("lasting").revoke_token(
    server["revocation_endpoint"], token=fourth["refresh_token"]).status_code == 200 else "failed")
said("after the revocation", lambda: refresh(fourth["refresh_token"]))

# The command line's token for wts itself is exchanged for one of an audience.
device = begin("wts-cli", scope="token")
open_browser(device["verification_uri_complete"])
own = poll(device, "wts-cli")


def exchange(subject, target):
    return public("wts-cli").fetch_token(
        token_endpoint, grant_type=exchange_grant, subject_token=subject, subject_token_type=access_token, audience=target, scope="read")


def exchanged():
    got = exchange(own["access_token"], audience)
    return f"{got['token_type'].lower()} {got['scope']}"


said("exchange", exchanged)
said("exchange for another audience", lambda: exchange(own["access_token"], "nothing"))
said("exchange of what is no token", lambda: exchange("nonsense", audience))

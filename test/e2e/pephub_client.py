"""What PEPHubClient sends, in its order, with its library. Authorization as it is, a device without a body, the
header device-code, a 401 with JSON while it waits, and one more try after the prompt. It goes on by lines of JSON.

    python3 pephub_client.py https://hub.example.org/
"""

import json
import sys
import time

import requests

BASE = sys.argv[1]
assert BASE.endswith("/"), "it is put together with the paths as text"


def send(method, path, token=None, **more):
    headers = dict(more.pop("headers", {}))
    if token:
        headers["Authorization"] = token  # no word before it
    answer = requests.request(method, BASE + path, headers=headers, verify=False, timeout=10, cookies=None, **more)
    if answer.status_code == 401:
        answer.json()  # it reads the text of every 401, and ends where there is none
    return answer


def say(**members):
    print(json.dumps(members), flush=True)


def poll(device):
    """One question; the token, or None while nothing was decided. Any other status ends it."""
    answer = send("POST", "auth/device/token", headers={"device-code": device})
    if answer.status_code == 200:
        return answer.json()["jwt_token"]
    if answer.status_code == 401:
        say(waiting=answer.json()["detail"])
        return None
    raise SystemExit(f"unexpected status {answer.status_code}")


def login():
    begun = send("POST", "auth/device/init")
    assert begun.status_code == 200, begun.status_code
    said = begun.json()
    say(auth_url=said["auth_url"])
    for _ in range(3):
        time.sleep(2)
        token = poll(said["device_code"])
        if token:
            return token
    sys.stdin.readline()  # press enter once you have logged in
    token = poll(said["device_code"])
    if not token:
        raise SystemExit("no token after the prompt")
    return token


def pep(name):
    return {
        "config": {"name": name, "pep_version": "2.1.0", "description": "of the test"},
        "samples": [{"sample_name": "s1", "organism": "pig"}],
        "subsamples": [],
    }


def main():
    token = login()
    say(token=token)
    own, secret = "api/v1/namespaces/alice/projects", "api/v1/projects/alice/secret?tag=default&raw=true"

    def push(namespace, name, private, overwrite=False, as_token=token):
        body = {"pep_dict": pep(name), "tag": "default", "is_private": private, "overwrite": overwrite}
        return send("POST", f"api/v1/namespaces/{namespace}/projects/json", as_token, json=body)

    statuses = {
        "push": push("alice", "secret", True).status_code,
        "push again": push("alice", "secret", True).status_code,
        "push over it": push("alice", "secret", True, overwrite=True).status_code,
        "push to another's": push("bob", "secret", True).status_code,
        "push without a login": push("alice", "third", False, as_token=None).status_code,
        "pull": send("GET", secret, token).status_code,
        "pull without a login": send("GET", secret).status_code,
        "pull what is not there": send("GET", "api/v1/projects/alice/none?tag=default&raw=true", token).status_code,
        "search": send("GET", own, token, params={"q": "sec", "limit": 100, "offset": 0}).status_code,
        "session": send("GET", "auth/session", token).status_code,
    }
    raw = send("GET", secret, token).json()
    found = send("GET", own, token, params={"limit": 100, "offset": 0}).json()
    public = send("GET", own, params={"limit": 100, "offset": 0}).json()
    say(statuses=statuses, raw=raw, found=found["count"], public=public["count"])


main()

"""A stand-in for Gen3's Python workspace token service, for the tests of a rollout.

It keeps a login as that service does: one row of refresh_token, its token sealed by the Fernet of
Python's own cryptography, after every row of the same userid and idp has gone; and it reads the newest
row back. psql speaks to the database.

    python_service.py seal < tokens     prints each line sealed
    python_service.py open < tokens     prints each line opened
    python_service.py serve PORT        serves POST /login and GET /token/

ENCRYPTION_KEY, DATABASE (a URL), FENCE (an issuer) and CLIENT (id:secret) come from the environment.
"""
import base64
import http.server
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

from cryptography.fernet import Fernet

FERNET = Fernet(os.environ["ENCRYPTION_KEY"])


def sql(statement, **values):
    command = ["psql", os.environ["DATABASE"], "-qAt", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
    for name, value in values.items():
        command += ["-v", f"{name}={value}"]
    ran = subprocess.run(command, input=statement, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in ran.stdout.splitlines()]


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def keep(username, idp, refresh_token):
    said = claims(refresh_token)
    sql(
        "DELETE FROM refresh_token WHERE userid = :'userid' AND idp = :'idp';"
        "INSERT INTO refresh_token (token, jti, username, userid, expires, idp)"
        " VALUES (:'token', :'jti', :'username', :'userid', :'expires', :'idp');",
        token=FERNET.encrypt(refresh_token.encode()).decode(), jti=said.get("jti", str(uuid.uuid4())),
        username=username, userid=said["sub"], expires=said["exp"], idp=idp,
    )


def access_token(username, idp):
    rows = sql(
        "SELECT token, expires FROM refresh_token WHERE username = :'username' AND idp = :'idp' ORDER BY expires DESC LIMIT 1;",
        username=username, idp=idp,
    )
    if not rows:
        return 403, {"message": "User doesn't have a refresh token"}
    token, expires = rows[0]
    if int(expires) < time.time():
        return 403, {"message": "your refresh token is expired, please login again"}
    form = {"grant_type": "refresh_token", "refresh_token": FERNET.decrypt(token.encode()).decode()}
    request = urllib.request.Request(os.environ["FENCE"] + "/oauth2/token", urllib.parse.urlencode(form).encode())
    request.add_header("Authorization", "Basic " + base64.b64encode(os.environ["CLIENT"].encode()).decode())
    with urllib.request.urlopen(request) as answer:
        return 200, {"token": json.load(answer)["access_token"]}


class Service(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        try:
            self.answer(*access_token(query["user"][0], query.get("idp", ["default"])[0]))
        except Exception as failed:  # it answers 500 for everything that it did not foresee
            self.answer(500, {"message": type(failed).__name__})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        keep(body["user"], body["idp"], body["refresh_token"])
        self.answer(200, {"success": "connected with fence"})

    def log_message(self, *_):
        pass


if sys.argv[1] == "serve":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Service).serve_forever()
for line in sys.stdin:
    value = line.rstrip("\n").encode()
    print((FERNET.encrypt(value) if sys.argv[1] == "seal" else FERNET.decrypt(value)).decode())

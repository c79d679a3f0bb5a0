"""Uploads a plugin as qgis-plugin-ci does with a token: one POST by requests, and exit code 2 where it is refused.

    plugin_upload.py <site> <package> <archive> < token
"""
import sys

import requests

site, package, archive = sys.argv[1:]
with open(archive, "rb") as handle:
    response = requests.post(
        f"{site}/plugins/api/{package}/version/add/",
        headers={"Authorization": f"Bearer {sys.stdin.read().strip()}"},
        files={"package": handle},
        timeout=30,
    )
print(response.status_code, response.text)
try:
    response.raise_for_status()
except requests.exceptions.HTTPError:
    sys.exit(2)

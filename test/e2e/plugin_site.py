"""A site of plugins on Django, whose tokens simplejwt verifies by the published keys of wts.

    plugin_site.py <port> <issuer> <keys of> <audience> <the audience's secret> <algorithm>

The settings are all that simplejwt needs; the two comparisons that it does not make are in `upload`.
"""
import json
import sys
import urllib.parse
import urllib.request
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.conf import settings

port, issuer, keys_of, audience, secret, algorithm = sys.argv[1:]
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of-this-site-alone-and-of-no-token",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"],
    REST_FRAMEWORK={
        # The token's user is no user of the site: a resource acts.
        "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework_simplejwt.authentication.JWTTokenUserAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    },
    SIMPLE_JWT={"ALGORITHM": algorithm, "JWK_URL": keys_of + "/.well-known/jwks.json", "ISSUER": issuer, "AUDIENCE": audience},
)

import django

django.setup()

from django.core.wsgi import get_wsgi_application
from django.urls import path
from rest_framework.exceptions import PermissionDenied
from rest_framework.response import Response
from rest_framework.views import APIView


def introspect(token):
    """introspect asks wts what a token is worth now (RFC 7662), by the site's own credentials."""
    form = urllib.parse.urlencode({"client_id": audience, "client_secret": secret, "token": token}).encode()
    with urllib.request.urlopen(keys_of + "/oauth2/introspect", form, timeout=10) as answer:
        return json.load(answer)


class Claims(APIView):
    """Claims answers with what simplejwt alone has verified."""

    def get(self, request):
        return Response(request.auth.payload)


class Upload(APIView):
    """Upload is a plugin's own: its token has to be for it, to hold the scope, and to be good at this moment."""

    def post(self, request, plugin):
        if request.auth.get("plugin_id") != plugin or "upload" not in request.auth.get("scope", "").split():
            raise PermissionDenied("Invalid token: of another plugin, or without the scope upload")
        # What was sent: str(request.auth) would sign the claims anew, with the site's own key.
        now = introspect(request.auth.token)
        if not now["active"]:
            raise PermissionDenied("Invalid token: it has ended")
        return Response({"success": True, "by": "token " + now.get("token_description", now["jti"])}, status=201)


urlpatterns = [path("claims/", Claims.as_view()), path("plugins/api/<plugin>/version/add/", Upload.as_view())]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


make_server("127.0.0.1", int(port), get_wsgi_application(), Server, Quiet).serve_forever()

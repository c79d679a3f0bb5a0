"""What PEPhub does with a token: the decode call of its dependencies, by PyJWT. The token stands on the standard input.

    python3 pephub_decode.py <secret>
"""

import json
import sys

import jwt

print(json.dumps(jwt.decode(sys.stdin.read(), sys.argv[1], algorithms=["HS256"])))

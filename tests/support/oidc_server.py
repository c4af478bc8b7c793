"""An OpenID provider for tests: a real HTTP server with a discovery document and one key.

Its tokens come from the Python object; a provider of the world would ask who wants one.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

AUDIENCE = "feature-server"
KEY_ID = "one"


@dataclass(frozen=True)
class Provider:
    """A running provider: its address, and the key with which it signs."""

    url: str
    key: rsa.RSAPrivateKey

    @property
    def settings(self) -> str:
        """What feature_store.yaml says of it."""
        return (
            "auth:\n"
            "  type: oidc\n"
            f"  auth_discovery_url: {self.url}/.well-known/openid-configuration\n"
            f"  audience: {AUDIENCE}\n"
            f"  issuer: {self.url}\n"
        )

    def token(self, *, key: rsa.RSAPrivateKey | None = None, **claims: Any) -> str:
        """Return a token that holds for a minute, unless the claims say otherwise."""
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "ranker", "exp": time.time() + 60}
        return jwt.encode(
            usual | claims, key or self.key, algorithm="RS256", headers={"kid": KEY_ID}
        )


def new_key() -> rsa.RSAPrivateKey:
    """Return a key to sign with."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


@contextmanager
def oidc_server() -> Iterator[Provider]:
    """Run a provider while the body runs."""
    key = new_key()
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    answers: dict[str, Any] = {"/jwks": {"keys": [{**jwk, "kid": KEY_ID, "use": "sig"}]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path)
            body = json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        answers["/.well-known/openid-configuration"] = {
            "issuer": url,
            "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token",
            "jwks_uri": f"{url}/jwks",
        }
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Provider(url, key)
        finally:
            server.shutdown()

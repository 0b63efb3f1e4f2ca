"""Content policy that keeps the demo offline: the browser may load only from this server."""

from typing import Any

from starlette.middleware import Middleware

# Gradio's page has inline scripts and styles, and evaluates some code.
POLICY = (
    b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; "
    b"frame-ancestors 'none'"
)


class ContentSecurityPolicy:
    """ASGI middleware that adds the policy to each response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY)
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self.app(scope, receive, send_with_policy)


MIDDLEWARE = [Middleware(ContentSecurityPolicy)]

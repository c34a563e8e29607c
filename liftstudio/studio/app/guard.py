"""What stands in front of the page: who may ask, how much may be sent, and what a browser may load."""

import asyncio
import html
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE, ENTER = "liftstudio_token", "/enter"
OVERHEAD = 1024**2  # bytes of a request besides the file in it
WRONG_TOKEN_S = 1.0  # pause after a wrong token, against guessing
POLICY = (  # the page loads nothing from other servers
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; connect-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
FORM = """<!doctype html><html lang="en"><meta charset="utf-8"><title>liftstudio</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;background:#f6f7f9}}
form{{background:#fff;padding:2rem;border-radius:12px;box-shadow:0 1px 8px #0002;display:grid;gap:.8rem;width:18rem}}
input,button{{font:inherit;padding:.6rem;border-radius:8px;border:1px solid #ccd}}
button{{background:#4f46e5;color:#fff;border:0}}p{{margin:0;color:#b91c1c}}</style>
<form method="post" action="{action}"><label for="token">Token, as the server printed it</label>
<input id="token" name="token" type="password" autofocus required><p>{message}</p><button>Open</button></form></html>"""


class Guard:
    """An application that answers only those who know the token, and takes no request that is too long.

    token: empty: none is needed. hosts: names by which the server may be called; empty: any. They keep other sites,
    whose name was made to point to this machine, from asking through the user's browser.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: tuple[str, ...], max_bytes: int) -> None:
        self.app, self.token, self.hosts, self.max_bytes = app, token, hosts, max_bytes + OVERHEAD

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # the page has no websockets
        answer = await self._refusal(Request(scope, receive))
        await (answer or self.app)(scope, receive, _with_policy(send))

    async def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self.hosts and urlsplit(f"//{host}").hostname not in self.hosts:
            return PlainTextResponse("unknown host", 403)
        origin = request.headers.get("origin", "")
        if origin not in ("", "null") and urlsplit(origin).netloc != host:
            return PlainTextResponse("requests of other sites are refused", 403)
        if request.method not in ("GET", "HEAD"):
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return PlainTextResponse("a length is required", 411)
            if int(length) > self.max_bytes:
                return PlainTextResponse(f"too large: more than {self.max_bytes // 1024**2} MB", 413)
        if "file=http" in request.url.path:  # gradio would fetch it
            return PlainTextResponse("no addresses of other servers", 403)
        return await self._asked(request) if self.token else None

    async def _asked(self, request: Request) -> Response | None:
        """Return the form that asks for the token, or what it leads to; None: the token is known."""
        if _is(request.cookies.get(COOKIE, ""), self.token):
            return None
        if request.method != "POST" or request.url.path != ENTER:
            return HTMLResponse(_form(request, ""), 401)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > OVERHEAD:
                return PlainTextResponse("too large", 413)
        given = parse_qs(body.decode(errors="replace")).get("token", [""])[0]
        if not _is(given, self.token):
            await asyncio.sleep(WRONG_TOKEN_S)
            return HTMLResponse(_form(request, "That is not the token."), 401)
        answer = RedirectResponse(request.scope.get("root_path", "") + "/", 303)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return answer


def _form(request: Request, message: str) -> str:
    action = request.scope.get("root_path", "") + ENTER
    return FORM.format(action=html.escape(action), message=html.escape(message))


def _is(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.setdefault("headers", [])
            names = {name.lower() for name, _ in headers}
            for name, value in (
                (b"content-security-policy", POLICY.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
            ):
                if name not in names:
                    headers.append((name, value))
        await send(message)

    return sending

"""JSON-RPC 2.0 as Moonraker speaks it, without input or output: text in, typed messages out, and back.

    RpcError      Moonraker answered with an error
    RpcTimeout    Moonraker did not answer in time; what was asked may still happen

Source: Moonraker's documentation, "JSON-RPC API"; https://www.jsonrpc.org/specification.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from printago_moonraker.errors import AgentError
from printago_moonraker.log import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602

Params = list[Any] | dict[str, Any]


class RpcError(AgentError):
    """Moonraker answered a request with an error.

    `status` is its code: JSON-RPC's own (-32601, ...) or an HTTP status (400, 503). `message` is the peer's text as
    it came, over several lines at times; `str(error)` is that text cleaned and cut.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(printable(message))
        self.status = status
        self.message = message


class RpcTimeout(AgentError):
    """No answer in time. The request is not taken back: G-code stays queued in Klipper and runs when its turn comes."""


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to the request `id`: a result, or an error."""

    id: int | str
    result: Any = None
    error: RpcError | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """News, or a call of a remote method by Klipper: nobody waits for an answer."""

    method: str
    params: Params


@dataclass(frozen=True, slots=True)
class Request:
    """A question of Moonraker's (another client's `server.extensions.request`): it waits for an answer."""

    id: int | str
    method: str
    params: Params


@dataclass(frozen=True, slots=True)
class Garbage:
    """What was no message that concerns anybody, with the reason: to be logged, never to be fatal."""

    reason: str


Message = Response | Notification | Request | Garbage


def encode_request(request_id: int, method: str, params: Mapping[str, Any] | None = None) -> str:
    """One request as text. Raises ValueError for NaN and infinities, TypeError for what JSON has no word for."""
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    if params is not None:
        request["params"] = dict(params)
    return json.dumps(request, allow_nan=False, separators=(",", ":"))


def encode_error(request_id: int | str, status: int, message: str) -> str:
    """The refusal of a request of Moonraker's, as text."""
    error = {"code": status, "message": message}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}, separators=(",", ":"))


def decode(frame: str | bytes) -> list[Message]:
    """The messages of one websocket frame, in order; a batch has several. Raises nothing: what cannot be read is
    `Garbage`.
    """
    try:
        content = json.loads(frame)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested beyond reason
        return [Garbage(f"not JSON: {error}")]
    if isinstance(content, list):
        return [_message(item) for item in content] or [Garbage("an empty batch")]
    return [_message(content)]


def _message(content: Any) -> Message:
    if not isinstance(content, dict):
        return Garbage(f"not an object but {type(content).__name__}")
    request_id = content.get("id")
    if request_id is not None and (isinstance(request_id, bool) or not isinstance(request_id, int | str)):
        return Garbage(f"an id of type {type(request_id).__name__}")
    if "method" in content:
        return _from_peer(request_id, content["method"], content.get("params"))
    if "error" in content:
        error = _error(content["error"])
        # No id: the peer could not tell which request it was, or it was one without an id.
        return Garbage(f"an error for no request: {error}") if request_id is None else Response(request_id, error=error)
    if "result" in content and request_id is not None:
        return Response(request_id, content["result"])
    return Garbage("neither a request nor an answer")


def _from_peer(request_id: int | str | None, method: Any, params: Any) -> Message:
    if params is None:
        params = []
    if not isinstance(method, str) or not isinstance(params, list | dict):
        return Garbage("a method that is no text, or parameters that are neither a list nor an object")
    return Notification(method, params) if request_id is None else Request(request_id, method, params)


def _error(content: Any) -> RpcError:
    """An error object as an exception, also when it is not built as the specification has it."""
    if not isinstance(content, dict):
        return RpcError(0, str(content))
    status = content.get("code")
    return RpcError(status if isinstance(status, int) else 0, str(content.get("message", "")))

"""JSON-RPC text in and out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from printago_moonraker.moonraker import rpc

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["id", "method", "params", "result", "error", "code"]), inner)
    ),
)


def test_request() -> None:
    """A request has version, id and method, and params only when there are any."""
    assert json.loads(rpc.encode_request(7, "server.info")) == {"jsonrpc": "2.0", "id": 7, "method": "server.info"}
    assert json.loads(rpc.encode_request(8, "x", {"a": None}))["params"] == {"a": None}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_no_nan_goes_out(number: float) -> None:
    """What is no JSON number is refused before it is sent."""
    with pytest.raises(ValueError, match="JSON"):
        rpc.encode_request(1, "x", {"a": number})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"jsonrpc":"2.0","result":"ok","id":3}', rpc.Response(3, "ok")),
        ('{"jsonrpc":"2.0","result":null,"id":"s"}', rpc.Response("s", None)),
        ('{"method":"notify_klippy_ready"}', rpc.Notification("notify_klippy_ready", [])),
        ('{"method":"my_method","params":{"value":42}}', rpc.Notification("my_method", {"value": 42})),
        ('{"method":"m","params":[1],"id":9}', rpc.Request(9, "m", [1])),
    ],
)
def test_messages(text: str, message: rpc.Message) -> None:
    """Answers, notifications, calls of remote methods and requests are told apart."""
    assert rpc.decode(text) == [message]
    assert rpc.decode(text.encode()) == [message]


def test_error_keeps_the_peers_words() -> None:
    """An error has the code and the whole text; its own text is one clean line."""
    [answer] = rpc.decode(
        '{"error":{"code":400,"message":"Extrude below minimum temp\\nSee the\\u001b[1m option"},"id":4}'
    )
    assert isinstance(answer, rpc.Response)
    assert answer.id == 4
    assert answer.error is not None
    assert (answer.error.status, answer.error.message) == (400, "Extrude below minimum temp\nSee the\x1b[1m option")
    assert str(answer.error) == "Extrude below minimum temp See the option"


@pytest.mark.parametrize("error", ["null", '"broken"', "{}", '{"code":"x","message":5}', "[]"])
def test_malformed_error_is_still_an_answer(error: str) -> None:
    """An error object built in some other way still ends the wait for that answer."""
    [answer] = rpc.decode(f'{{"error":{error},"id":4}}')
    assert isinstance(answer, rpc.Response)
    assert answer.error is not None


def test_batch() -> None:
    """A batch is its messages, in order; a bad one among them spoils only itself."""
    messages = rpc.decode('[{"result":1,"id":1},5,{"method":"m"}]')
    assert [type(message) for message in messages] == [rpc.Response, rpc.Garbage, rpc.Notification]


@pytest.mark.parametrize(
    "frame",
    [
        "", "no json", "[]", "5", "null", "{}", '{"result":1}', '{"id":true,"result":1}', '{"id":[1],"result":1}',
        '{"method":5}', '{"method":"m","params":"text"}', '{"error":{"code":-32700,"message":"Parse error"},"id":null}',
        b"\xff\xfe\xfa", "[" * 200_000, "9" * 5000,
    ],
)  # fmt: skip
def test_garbage(frame: str | bytes) -> None:
    """What is no message is `Garbage` with a reason, never an exception."""
    [message] = rpc.decode(frame)
    assert isinstance(message, rpc.Garbage)
    assert message.reason


@given(JSON)
def test_nothing_breaks_the_decoder(content: Any) -> None:
    """Any JSON whatever gives at least one message."""
    assert rpc.decode(json.dumps(content))


def test_refusal() -> None:
    """A refused request of the peer's carries its id and the code."""
    refusal = json.loads(rpc.encode_error(9, rpc.METHOD_NOT_FOUND, "Method not found"))
    assert refusal == {"jsonrpc": "2.0", "id": 9, "error": {"code": -32601, "message": "Method not found"}}

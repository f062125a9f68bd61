"""The printer agent between Printago (MQTT) and Moonraker (JSON-RPC websocket)."""

__version__ = "0.1.0"

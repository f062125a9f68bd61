"""Every error of this program, and the code under which Printago hears of it.

    AgentError
    ├── ConfigError                    the configuration is broken (exit code 78)
    ├── LinkError                      a link to a peer could not be made, or was lost
    │   ├── NotPaired                  there are no credentials to go to the broker with
    │   ├── ConnectionRefused          the peer answered, and said no (login, registration)
    │   │   └── LoginRefused           the broker does not take the credentials
    │   └── ConnectionLost             the link broke; whatever was under way has no known outcome
    └── CommandError                   a command's terminal `error` answer; one subclass a code
        └── InvalidJson, PayloadTooLarge, ... (the table in docs/protocol.md)

A `CommandError` carries one sentence that a person can act on. Nothing else of an exception leaves the agent.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AgentError(Exception):
    """The root. `code` is the wire's error code of this class.

    `patience` is how far apart, in seconds, attempts may come to be while this is what they fail with; 0: as for any
    failure. It is for what will not pass by itself.
    """

    code: ClassVar[str] = "internal"
    patience: ClassVar[float] = 0.0


class ConfigError(AgentError):
    """The configuration is broken: the message names file, section, option and remedy."""


class LinkError(AgentError):
    """A link to Moonraker or to the broker is not there."""


class ConnectionRefused(LinkError):
    """The peer was reached and refused: wrong credentials, a name already taken, no right to a topic."""


class NotPaired(LinkError):
    """This host has no credentials: it was never paired, or has been unpaired."""

    patience = 900.0


class LoginRefused(ConnectionRefused):
    """The broker does not take the credentials: they are wrong, or were revoked."""

    patience = 900.0  # new ones are noticed at once, whatever the wait


class ConnectionLost(LinkError):
    """The link broke. The outcome of what was under way is unknown."""


class CommandError(AgentError):
    """A command was refused or failed. `str(error)` is the sentence, `details` goes out beside it when given."""

    def __init__(self, sentence: str, *, details: Any = None) -> None:
        super().__init__(sentence)
        self.details = details


class InvalidJson(CommandError):
    code = "invalid_json"


class PayloadTooLarge(CommandError):
    code = "payload_too_large"


class MissingType(CommandError):
    code = "missing_type"


class MissingAction(CommandError):
    code = "missing_action"


class MissingParameters(CommandError):
    code = "missing_parameters"


class UnknownType(CommandError):
    code = "unknown_type"


class UnknownAction(CommandError):
    code = "unknown_action"


class InvalidParameters(CommandError):
    code = "invalid_parameters"


class WrongPrinter(CommandError):
    code = "wrong_printer"


class Expired(CommandError):
    code = "expired"


class RetainedCommand(CommandError):
    code = "retained_command"


class Overloaded(CommandError):
    code = "overloaded"


class Forbidden(CommandError):
    code = "forbidden"


class NotSupported(CommandError):
    code = "not_supported"


class PrinterOffline(CommandError):
    code = "printer_offline"


class PrinterNotReady(CommandError):
    code = "printer_not_ready"


class Busy(CommandError):
    code = "busy"


class NotPrinting(CommandError):
    code = "not_printing"


class NotPaused(CommandError):
    code = "not_paused"


class NotHomed(CommandError):
    code = "not_homed"


class OutOfRange(CommandError):
    code = "out_of_range"


class TooCold(CommandError):
    code = "too_cold"


class FileNotFound(CommandError):
    code = "file_not_found"


class ForbiddenPath(CommandError):
    code = "forbidden_path"


class ForbiddenUrl(CommandError):
    code = "forbidden_url"


class DownloadFailed(CommandError):
    code = "download_failed"


class DownloadTooLarge(CommandError):
    code = "download_too_large"


class ChecksumMismatch(CommandError):
    code = "checksum_mismatch"


class NoSpace(CommandError):
    code = "no_space"


class UploadFailed(CommandError):
    code = "upload_failed"


class GcodeError(CommandError):
    code = "gcode_error"


class CameraNotFound(CommandError):
    code = "camera_not_found"


class CameraUnavailable(CommandError):
    code = "camera_unavailable"


class DestinationFailed(CommandError):
    code = "destination_failed"


class OutcomeUnknown(CommandError):
    """No answer in time. What then happens still comes as an event."""

    code = "timeout"


class Interrupted(CommandError):
    """The agent died while the command ran; the sentence says what the printer shows now."""

    code = "interrupted"


class Cancelled(CommandError):
    code = "cancelled"


class Internal(CommandError):
    """A defect of the agent: the log has the traceback, the cloud only this sentence."""

    code = "internal"

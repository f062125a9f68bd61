"""The tree of errors and its codes."""

from printago_moonraker import errors
from printago_moonraker.errors import AgentError, CommandError, ConfigError, LinkError


def classes() -> list[type[CommandError]]:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CommandError)]
    return [each for each in found if each is not CommandError]


def test_everything_has_one_root() -> None:
    """One except clause catches whatever this program raises on purpose."""
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(found) > 30
    assert all(issubclass(each, AgentError) for each in found)


def test_a_code_names_one_class() -> None:
    """Each answer's code belongs to exactly one class, and each class says its own."""
    codes = [each.code for each in classes()]
    assert len(set(codes)) == len(codes)
    assert all("code" in vars(each) for each in classes())


def test_links_and_config_are_no_answers() -> None:
    """A broken link or configuration is never taken for a command's answer."""
    assert not issubclass(LinkError, CommandError)
    assert not issubclass(ConfigError, CommandError)


def test_sentence_and_details() -> None:
    """An error carries its sentence, and its details only when there are any."""
    error = errors.InvalidParameters("x is missing.", details=[{"path": "x", "message": "is missing."}])
    assert str(error) == "x is missing."
    assert error.details == [{"path": "x", "message": "is missing."}]
    assert errors.Busy("Printing.").details is None

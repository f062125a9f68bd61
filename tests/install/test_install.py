"""install.sh, run by a real shell in throw-away roots."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from printago_moonraker import config
from tests.install.host import NAME, REQUIREMENTS, ROOT, Host, program, snapshot, wheel

pytestmark = pytest.mark.timeout(60)  # each environment takes some seconds

OLD_PYTHON = (
    'case "$*" in *version_info\\[*) echo 3.8 ;; esac\ncase "$*" in *"sys.exit(sys.version_info <"*) exit 1 ;; esac\n'
)


def refusal(host: Host, *options: str, root: bool = False, before: str = "", **environment: str) -> str:
    """The one line that install.sh refuses with, having changed nothing."""
    there = snapshot(host.home, host.root)
    result = host.install(*options, root=root, before=before, **environment)
    assert result.returncode == 1, result.stdout + result.stderr
    assert snapshot(host.home, host.root) == there
    assert host.asked() == []
    (line,) = result.stderr.splitlines()
    assert line.startswith("install.sh: ")
    return line


def printers(path: Path) -> dict[str, str]:
    """The names and URLs of a configuration that the agent itself accepts."""
    return {printer.name: printer.moonraker_url for printer in config.load(path).printers}


def host_name() -> str:
    return config.default_printer().name


def test_one_instance(tmp_path: Path) -> None:
    """On the usual host, the program, its configuration, the service and Moonraker's permission are there."""
    host = Host(tmp_path, "printer_data")
    said = host.installed("--non-interactive")
    assert host.agent("--version").startswith(NAME)
    assert printers(host.config()) == {host_name(): "http://127.0.0.1:7125"}
    assert (host.home / "printer_data/moonraker.asvc").read_text() == f"klipper_mcu\nwebcamd\n{NAME}"
    assert (host.home / "printer_data/printago").stat().st_mode & 0o777 == 0o700
    unit = host.unit.read_text()
    assert f"ExecStart={host.environment}/bin/{NAME} run -c {host.config()}\n" in unit
    assert "User=daemon\n" in unit
    assert "@" not in re.sub("@(system-service|privileged|resources)", "", unit), "a placeholder is left"
    asked = [line for line in host.asked() if line.startswith("systemctl")]
    assert asked == [f"systemctl {what}" for what in ("daemon-reload", f"enable --quiet {NAME}", f"restart {NAME}")]
    assert "include" not in (host.home / "printer_data/config/moonraker.conf").read_text()
    for what in ("✓ config", "✗ Moonraker", f"bin/{NAME} pair -c {host.config()}", "Restart Moonraker"):
        assert what in said, "what doctor finds, and what is left to do"


def test_three_instances(tmp_path: Path, environment: Path) -> None:
    """Each of three Moonrakers gets its section, with the port, address and prefix of its own moonraker.conf."""
    host = Host(tmp_path, "printer_data", "printer_2_data", "printer_voron_data")
    (host.home / "printer_voron_data/config/moonraker.conf").write_text(
        "# [server]\n[authorization]\nport: 1\n[ server ]\nhost=192.0.2.7 # the LAN\nport = 7131 ; as ever\n"
        "route_prefix: /voron/\n[file_manager]\nport: 2\n"
    )
    (host.home / "printer_data/config/moonraker.conf").write_text("[server]\r\nhost: 0.0.0.0\r\n")
    host.borrow(environment)
    host.installed("--non-interactive")
    assert printers(host.config()) == {
        f"{host_name()}-2": "http://127.0.0.1:7126",
        host_name(): "http://127.0.0.1:7125",
        "voron": "http://192.0.2.7:7131/voron",
    }


def test_two_instances_with_one_address(tmp_path: Path) -> None:
    """Of two Moonrakers with the same port only one can run: the second is left out, and that is said."""
    host = Host(tmp_path, "printer_data", "printer_old_data")
    (host.home / "printer_old_data/config/moonraker.conf").write_text("[server]\n")
    result = host.install("--dry-run")
    assert "printer_old_data is left out" in result.stderr
    assert result.stdout.count("moonraker_url: http://127.0.0.1:7125") == 1


def test_names_that_collide(tmp_path: Path, environment: Path) -> None:
    """Folders that would give one name get numbers, until each printer has its own and the agent accepts the file."""
    host = Host(tmp_path, "printer_data", "printer_2_data", f"printer_{host_name()}_data", f"printer_{'x' * 99}_data")
    host.borrow(environment)
    host.installed("--non-interactive")
    names = [host_name(), f"{host_name()}-2", f"{host_name()}-3", "x" * 60]
    assert sorted(printers(host.config())) == sorted(names)


def test_a_printer_that_is_added(tmp_path: Path) -> None:
    """On a second run, a printer that the configuration lacks is named so that it can be added as it stands: known
    printers are recognised under each name of this host, and their names and ids are not given again.
    """
    host = Host(tmp_path, "printer_data", "printer_voron_data", "printer_ender_data", "printer_k1_data")
    mine = (
        f"[printer mine]\nmoonraker_url: http://localhost:7125\nprinter_id: ender\n"
        f"[printer {host_name()}]\nmoonraker_url: http://[::1]:7126/\n"
    )
    host.config().write_text(mine)
    said = host.installed("--dry-run")
    added = said.partition("to serve them, add:\n")[2].partition("\n  would")[0].partition("\nMoonraker")[0]
    text = "\n".join(line.strip() for line in added.splitlines())
    assert re.findall(r"\[printer (.*)\]", text) == ["ender-2", "k1"]
    host.config().write_text(f"{mine}{text}\n")
    assert len(printers(host.config())) == 4


def test_no_instance(tmp_path: Path) -> None:
    """Where there is no Moonraker, it says what to do, and changes nothing."""
    assert "there is no Moonraker" in refusal(Host(tmp_path))


def test_a_host_for_printers_elsewhere(tmp_path: Path, environment: Path) -> None:
    """A host without a Moonraker, but with a configuration that names printers, gets the agent."""
    host = Host(tmp_path)
    host.config().parent.mkdir(parents=True)
    host.config().write_text("[printer k1]\nmoonraker_url: http://192.0.2.1:7125\n")
    host.borrow(environment)
    host.installed("--non-interactive")
    assert f"run -c {host.config()}\n" in host.unit.read_text()


def test_the_first_instance_has_another_name(tmp_path: Path, environment: Path) -> None:
    """Without ~/printer_data, configuration and database are in the first instance's folder."""
    host = Host(tmp_path, "printer_voron_data")
    host.borrow(environment)
    host.installed("--non-interactive")
    settings = config.load(host.config("printer_voron_data"))
    assert settings.printago.data_path == host.home / "printer_voron_data/printago"
    assert settings.printago.data_path.is_dir()
    assert f"ReadWritePaths=-{settings.printago.data_path} " in host.unit.read_text()


def test_a_second_run(tmp_path: Path, environment: Path) -> None:
    """Running it again changes nothing, not even what the user has changed, and names the printers that are new."""
    host = Host(tmp_path, "printer_data")
    host.publish()
    host.borrow(environment)
    host.installed("--non-interactive", "--update-manager")
    host.config().write_text(host.config().read_text() + "\n[status]\nheartbeat: 30\n")
    host.asked()
    there = snapshot(*(path for path in host.home.iterdir() if path != host.environment), host.root)
    host.installed("--non-interactive")
    assert snapshot(*(path for path in host.home.iterdir() if path != host.environment), host.root) == there
    assert not any("sudo -n install" in line for line in host.asked())
    host.add_instance("printer_voron_data", 7126)
    mine = host.config().read_text()
    said = host.installed("--non-interactive")
    assert "[printer voron]\n      moonraker_url: http://127.0.0.1:7126\n" in said
    assert host.config().read_text() == mine


def test_an_upgrade(tmp_path: Path, environment: Path) -> None:
    """After a `git pull`, it fetches what is newly needed, renews the unit, and restarts the service."""
    host = Host(tmp_path, "printer_data")
    host.borrow(environment)
    host.installed("--non-interactive")
    mine = host.config().read_text()
    host.asked()
    wheel(host.wheels, "brand-new", "1.0", "brand_new.py", "answer = 42\n")
    with (host.clone / REQUIREMENTS).open("a") as requirements:
        requirements.write("brand-new>=1\n")
    (host.clone / "printago_moonraker/__init__.py").write_text('__version__ = "99.0"\n')
    unit = host.clone / "printago_moonraker/host/printago-moonraker.service"
    unit.write_text(unit.read_text().replace("Nice=10", "Nice=11"))
    host.installed("--non-interactive")
    assert host.agent("--version") == f"{NAME} 99.0\n"
    subprocess.run([host.environment / "bin/python", "-c", "import brand_new"], check=True)
    assert "Nice=11" in host.unit.read_text()
    assert host.config().read_text() == mine
    assert f"systemctl restart {NAME}" in host.asked()


def test_a_copy_that_pip_made(tmp_path: Path, environment: Path) -> None:
    """Who has installed the package with pip before gets the clone's code, not the old copy."""
    host = Host(tmp_path, "printer_data")
    host.borrow(environment)
    wheel(host.wheels, NAME, "0.0.1", "printago_moonraker/__init__.py", '__version__ = "0.0.1"\n')
    pip = [str(host.environment / "bin/python"), "-m", "pip", "install", "--quiet", NAME]
    subprocess.run(pip, env=host.environ(), check=True)
    host.installed("--non-interactive")
    assert host.agent("--version") != f"{NAME} 0.0.1\n"


def test_a_dry_run(tmp_path: Path, environment: Path) -> None:
    """A dry run says what would be done, and leaves every file and its hash as they were; so does one that removes."""
    host = Host(tmp_path, "printer_data", "printer_voron_data")
    host.publish()
    there = snapshot(host.home, host.root)
    said = host.installed("--dry-run", "--update-manager", "--non-interactive")
    assert snapshot(host.home, host.root) == there
    assert host.asked() == []
    for what in ("-m venv", "[printer voron]", NAME, "systemctl restart", "[update_manager", "MemoryMax="):
        assert what in said
    host.borrow(environment)
    host.installed("--update-manager", "--non-interactive")
    there = snapshot(host.home, host.root)
    host.asked()
    assert "rm -rf" in host.installed("--uninstall", "--dry-run")
    assert snapshot(host.home, host.root) == there
    assert host.asked() == []


def test_an_uninstallation(tmp_path: Path, environment: Path) -> None:
    """What the user had is back to the byte, what it installed is gone, and what is left is named."""
    host = Host(tmp_path, "printer_data", "printer_voron_data")
    host.publish()
    conf = host.home / "printer_voron_data/config/moonraker.conf"
    conf.rename(host.home / "shared.conf")
    conf.symlink_to(host.home / "shared.conf")
    (host.home / "printer_voron_data/moonraker.asvc").write_bytes(b"klipper_mcu\r\nwebcamd\r\n")
    there = snapshot(host.home, host.root)
    host.borrow(environment)
    host.installed("--non-interactive", "--update-manager")
    (host.home / "printer_data/printago/agent.db").touch()
    said = host.installed("--uninstall", "--non-interactive")
    left = snapshot(host.home, host.root)
    yours = {str(path) for path in (host.config(), host.home / "printer_data/printago")}
    assert {path: left[path] for path in there} == there
    assert set(left) - set(there) == yours | {str(host.home / "printer_data/printago/agent.db")}
    assert {path for path in yours if path in said} == yours
    asked = host.asked()
    assert f"systemctl disable --quiet --now {NAME}" in asked
    assert f"systemctl clean --what=cache {NAME}" in asked


def test_an_uninstallation_names_what_is_elsewhere(tmp_path: Path, environment: Path) -> None:
    """Data and log that the configuration has put elsewhere are named, and so is an entry that was copied by hand."""
    host = Host(tmp_path, "printer_data")
    host.config().write_text(f"[printago]\ndata_path: {host.home}/mine\nlog_path: {host.home}/logs/p.log\n")
    conf = host.home / "printer_data/config/moonraker.conf"
    conf.write_text(conf.read_text() + (ROOT / "moonraker.conf.example").read_text())
    host.borrow(environment)
    host.installed("--non-interactive")
    assert (host.home / "mine").stat().st_mode & 0o777 == 0o700
    assert f"ReadWritePaths=-{host.home}/mine -{host.home}/logs\n" in host.unit.read_text()
    left = [host.home / name for name in ("mine/credentials.json", "logs/p.log", "logs/p.log.1")]
    left.append(host.home / "printer_data/logs/printago.log")
    for path in left:
        path.touch()  # the log's folder was made
    said = host.installed("--uninstall", "--non-interactive")
    for path in [*left, host.home / "mine", host.config(), host.clone]:
        assert f"  {path}\n" in said
        assert path.exists()
    assert f"{conf} still has [update_manager {NAME}], whose environment is gone" in said


def test_a_file_of_the_users_that_has_our_name(tmp_path: Path, environment: Path) -> None:
    """A printago-update.conf of the user's own is neither replaced nor included nor taken away."""
    host = Host(tmp_path, "printer_data")
    host.publish()
    folder = host.home / "printer_data/config"
    (folder / "printago-update.conf").write_text("# mine\n")
    conf = (folder / "moonraker.conf").read_text()
    host.borrow(environment)
    assert "printago-update.conf is yours, and stays" in host.installed("--update-manager", "--non-interactive")
    assert (folder / "moonraker.conf").read_text() == conf
    (folder / "moonraker.conf").write_text(f"{conf}[include printago-update.conf]\n")
    host.installed("--uninstall", "--non-interactive")
    assert (folder / "printago-update.conf").read_text() == "# mine\n"
    assert (folder / "moonraker.conf").read_text() == f"{conf}[include printago-update.conf]\n"


def test_a_password_in_the_clones_origin(tmp_path: Path, environment: Path) -> None:
    """A token in the clone's URL stays out of the file that Moonraker shows, and its owner hears of it."""
    host = Host(tmp_path, "printer_data")
    host.publish()
    host.git("remote", "set-url", "origin", "https://me:ghp_tok3n@git.example.com/x.git")
    host.borrow(environment)
    said = host.installed("--update-manager", "--non-interactive")
    entry = (host.home / "printer_data/config/printago-update.conf").read_text()
    assert "\norigin: https://git.example.com/x.git\n" in entry
    assert "remote set-url origin https://git.example.com/x.git" in said
    assert "ghp_tok3n" not in said + entry
    host.git("remote", "set-url", "origin", "git@git.example.com:x.git")
    host.installed("--non-interactive")
    assert (
        "\norigin: git@git.example.com:x.git\n" in (host.home / "printer_data/config/printago-update.conf").read_text()
    )


def test_updates_that_are_not_wanted_any_more(tmp_path: Path, environment: Path) -> None:
    """--no-update-manager says what an earlier run has left in moonraker.conf, and how to end it."""
    host = Host(tmp_path, "printer_data")
    host.publish()
    host.borrow(environment)
    assert "goes on including" not in host.installed("--no-update-manager", "--non-interactive")
    host.installed("--update-manager", "--non-interactive")
    said = host.installed("--no-update-manager", "--non-interactive")
    assert "moonraker.conf goes on including printago-update.conf: delete that line to end it" in said


def test_no_systemd(tmp_path: Path, environment: Path) -> None:
    """Where systemd does not run, all but the service is installed, and it says how to start the agent."""
    host = Host(tmp_path, "printer_data")
    (host.bin / "sudo").unlink()
    host.borrow(environment)
    said = host.installed("--non-interactive", STUB_SYSTEMD="offline")
    assert "no systemd runs here" in said
    assert f"{host.environment}/bin/{NAME} run -c {host.config()}" in said
    assert host.agent("--version").startswith(NAME)
    assert not host.unit.exists()
    assert host.asked() == []


def test_an_old_python(tmp_path: Path) -> None:
    """A Python before 3.11 is named, and what has a newer one."""
    line = refusal(Host(tmp_path, "printer_data", python=OLD_PYTHON))
    assert "Python 3.11 or newer is needed, here: 3.8;" in line


def test_a_newer_python_beside_an_old_one(tmp_path: Path) -> None:
    """A second Python of the host is used when `python3` is too old."""
    host = Host(tmp_path, "printer_data", python=OLD_PYTHON)
    (host.bin / "python3.11").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    assert "would run: python3.11 -m venv" in host.installed("--dry-run")


def test_a_python_without_venv(tmp_path: Path) -> None:
    """Debian's package that is missing is named."""
    there = Path(sys.base_prefix) / "bin" / "python3"
    python = f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec {there} "$@"\n'
    assert "sudo apt-get install python3-venv" in refusal(Host(tmp_path, "printer_data", python=python))


def test_a_creality_k1(tmp_path: Path) -> None:
    """A printer with init scripts and an old Python is told to have the agent run elsewhere."""
    host = Host(tmp_path, python=OLD_PYTHON)
    for tool in ("systemctl", "sudo", "git"):
        (host.bin / tool).unlink()
    data = host.root / "usr/data/printer_data/config"
    data.mkdir(parents=True)
    (data / "moonraker.conf").write_text("[server]\nport: 7125\n")
    assert "run it on another computer in your network" in refusal(host, root=True)


def test_root_where_he_should_not_be(tmp_path: Path) -> None:
    """Root is sent away, by name where it came by sudo, unless he is the one who runs Klipper."""
    host = Host(tmp_path)
    assert "run it as the user who runs Klipper, not as root" in refusal(host, root=True)
    host.add_instance("printer_data", 7125)
    assert "run it as pi, without sudo" in refusal(host, root=True, SUDO_USER="pi")
    result = host.install("--dry-run", root=True)
    assert result.returncode == 0, result.stderr
    assert "User=root" in result.stdout
    assert "would run: sudo" not in result.stdout


def test_a_nearly_full_disk(tmp_path: Path) -> None:
    """Before it would run out of disk, it says how much there is and how much is needed."""
    host = Host(tmp_path, "printer_data")
    mount = program("mount", "mount")
    fill = f'{mount} -t tmpfs -o size=20m tmpfs "$HOME" && mkdir -p "$HOME/printer_data/config"'
    keep = f'cp_from=$(mktemp -d) && {mount} --bind "$HOME" "$cp_from"'
    for tool in ("mktemp", "cp"):
        (host.bin / tool).symlink_to(program(tool, "coreutils"))
    restore = 'cp -r "$cp_from/." "$HOME/"'
    line = refusal(host, root=True, before=f"{keep} && {fill} && {restore} || exit 99")
    assert re.search(r"nearly full: .* has 1?\d MB free, 250 MB are needed", line)


def test_sudo_with_a_password(tmp_path: Path) -> None:
    """A fleet's script that would hang at sudo's question is refused instead."""
    host = Host(tmp_path, "printer_data")
    assert "sudo asks for a password" in refusal(host, "--non-interactive", STUB_PASSWORD="yes")


def test_sudo_that_is_refused(tmp_path: Path) -> None:
    """Who may not use sudo, or mistypes the password, hears it before anything is changed."""
    host = Host(tmp_path, "printer_data")
    assert "without sudo there can be no service; nothing was changed" in refusal(host, STUB_PASSWORD="yes")


@pytest.mark.parametrize("name", ["moonraker.asvc", "config/moonraker.conf", "config", "printago"])
def test_a_file_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    """A file that would have to be changed and cannot is named, with the remedy, before anything is changed."""
    host = Host(tmp_path, "printer_data")
    host.publish()
    path = host.home / "printer_data" / name
    if name == "printago":
        path.mkdir()
    path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        line = refusal(host, "--update-manager", "--non-interactive")
        assert f"{path} cannot be written to: sudo chown daemon {path}" in line
        if name == "config/moonraker.conf":
            assert host.installed("--dry-run", "--no-update-manager")
    finally:
        path.chmod(0o755)


def test_a_library_that_is_missing(tmp_path: Path) -> None:
    """On a 32-bit system without the library that Pillow needs there, Debian's package is named."""
    there = Path(sys.base_prefix) / "bin" / "python3"
    python = f'case "$*" in *libopenjp2*) exit 1 ;; esac\nexec {there} "$@"\n'
    assert "sudo apt-get install libopenjp2-7" in refusal(Host(tmp_path, "printer_data", python=python))


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    """A PYTHON that does not exist is named, instead of the version that is needed."""
    host = Host(tmp_path, "printer_data")
    assert "there is no PYTHON=python9" in refusal(host, PYTHON="python9")
    assert "there is no PYTHON=/x y/python" in refusal(host, PYTHON="/x y/python")


def test_an_instance_with_blanks(tmp_path: Path) -> None:
    """Of several instances, the one whose name cannot be used is named, and it alone."""
    host = Host(tmp_path, "printer_data", "printer_Voron 2_data")
    line = refusal(host)
    assert line.startswith(f"install.sh: {host.home}/printer_Voron 2_data has characters other than")


def test_a_broken_configuration(tmp_path: Path) -> None:
    """A mistake in the user's configuration is said in the agent's own words, before anything is changed."""
    host = Host(tmp_path, "printer_data")
    host.config().write_text("[mqtt]\nprot: 1883\n")
    assert "[mqtt] prot: there is no such option; port is meant" in refusal(host)


def test_an_environment_that_is_none(tmp_path: Path) -> None:
    """A folder of the user's that has the environment's name is not overwritten."""
    host = Host(tmp_path, "printer_data")
    host.environment.mkdir()
    (host.environment / "thesis.txt").touch()
    assert "is no Python environment: move it away" in refusal(host)


def test_a_path_with_blanks(tmp_path: Path) -> None:
    """A path that a unit could not hold is refused."""
    host = Host(tmp_path / "my printers", "printer_data")
    assert "use another path" in refusal(host)


def test_the_update_manager_needs_a_clone(tmp_path: Path) -> None:
    """Who asks for updates from an unpacked archive is told that they need a clone."""
    assert "needs a git clone" in refusal(Host(tmp_path, "printer_data"), "--update-manager")


@pytest.mark.parametrize(("typed", "wanted"), [("y\n", True), ("\n", False)])
def test_the_update_manager_is_asked_for(typed: str, wanted: bool, tmp_path: Path, environment: Path) -> None:
    """A person is asked whether Moonraker shall update the agent; only a yes is one."""
    host = Host(tmp_path, "printer_data")
    host.publish()
    host.borrow(environment)
    result = host.install(typed=typed)
    assert result.returncode == 0, result.stderr
    assert "Shall Moonraker keep the agent up to date" in result.stdout
    folder = host.home / "printer_data/config"
    assert (folder / "printago-update.conf").exists() is wanted
    assert ("[include printago-update.conf]" in (folder / "moonraker.conf").read_text().splitlines()) is wanted


def test_an_entry_of_the_users_own(tmp_path: Path, environment: Path) -> None:
    """Where moonraker.conf has the update entry already, no second one is added."""
    host = Host(tmp_path, "printer_data")
    host.publish()
    conf = host.home / "printer_data/config/moonraker.conf"
    conf.write_text(f"{conf.read_text()}\n[update_manager {NAME}]\ntype: git_repo\n")
    mine = conf.read_text()
    host.borrow(environment)
    assert "has an entry of its own" in host.installed("--update-manager", "--non-interactive")
    assert conf.read_text() == mine


def test_a_moonraker_that_never_ran(tmp_path: Path) -> None:
    """Moonraker's list of services is not made in its place: that would take its own services from it."""
    host = Host(tmp_path, "printer_data")
    asvc = host.home / "printer_data/moonraker.asvc"
    asvc.unlink()
    assert "start Moonraker once" in host.installed("--dry-run")
    assert not asvc.exists()


def test_wrong_usage(tmp_path: Path) -> None:
    """An unknown option is wrong usage, exit code 2; --help is not."""
    host = Host(tmp_path)
    result = host.install("--frobnicate")
    assert (result.returncode, "no option --frobnicate" in result.stderr) == (2, True)
    result = host.install("--help")
    assert (result.returncode, result.stdout.startswith("usage:")) == (0, True)


def test_a_missing_dependency_is_one_line(tmp_path: Path) -> None:
    """When an update's dependency could not be fetched, the program says so, and what to do, in one line."""
    broken = tmp_path / "printago_moonraker"
    broken.mkdir()
    (broken / "__init__.py").touch()
    (broken / "cli.py").write_text("import not_fetched\n")
    launcher = ROOT / "printago_moonraker/host/launcher"
    result = subprocess.run(
        [sys.executable, launcher], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "not_fetched is missing; run install.sh again" in line


def test_shellcheck() -> None:
    """shellcheck finds nothing, and the script is plain POSIX."""
    result = subprocess.run(
        [program("shellcheck", "shellcheck"), "--shell=sh", ROOT / "install.sh"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout


def test_requirements_are_those_of_the_package() -> None:
    """What pip is given on a host is what pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / REQUIREMENTS).read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]


def test_what_the_update_entry_names_is_there() -> None:
    """The files that moonraker.conf.example names are in the repository, and are what Moonraker expects."""
    entry = configparser.ConfigParser(delimiters=(":",), interpolation=None)
    entry.read(ROOT / "moonraker.conf.example")
    section = entry[f"update_manager {NAME}"]
    assert section["requirements"] == REQUIREMENTS
    assert (ROOT / section["requirements"]).is_file()
    packages = json.loads((ROOT / section["system_dependencies"]).read_text())
    assert all("python3-venv" in packages[system] for system in ("debian", "ubuntu"))

#!/bin/sh
# Installs printago-moonraker on a Klipper host, from the clone that this file is in: see docs/install.md.
#
# First everything is looked at, and what stands in the way is said in one line; only then is anything changed.
# No file that it did not make is replaced. POSIX sh, so that a printer with busybox can at least read why not.
#
# From the environment: PYTHON, the Python to use; DESTDIR, as in make, where / is for what is outside the home folder.
set -eu
umask 022

NAME=printago-moonraker
REPO=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
VENV=${HOME:?}/$NAME-env
UNIT=${DESTDIR:-}/etc/systemd/system/$NAME.service
HOST_FILES=$REPO/printago_moonraker/host
DROP_IN=printago-update.conf
INCLUDE="[include $DROP_IN]"
MADE_HERE="# Made by install.sh"
DISK_NEEDED=250 # MB; the environment takes 65, and pip unpacks beside it

DRY_RUN=no
UNINSTALL=no
INTERACTIVE=yes
UPDATE_MANAGER=ask
MOONRAKER_IS_STALE=no
LF='
'

# ---- saying and doing

usage() {
    cat <<END
usage: ./install.sh [--dry-run] [--non-interactive] [--update-manager | --no-update-manager]
       ./install.sh --uninstall [--dry-run] [--non-interactive]

Installs the agent for all Moonraker instances of this user, as a systemd service.

  --dry-run            say what would be done, and touch nothing
  --non-interactive    ask nothing, not even a password (sudo must need none)
  --update-manager     let Moonraker's update manager keep the agent up to date; --no-update-manager: do not ask
  --uninstall          take away what it has installed, and say what it leaves
END
}

say() { printf '%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

run() {
    if [ "$DRY_RUN" = yes ]; then note "would run: $*"; else "$@"; fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        run "$@"
    elif [ "$INTERACTIVE" = no ]; then
        run sudo -n "$@"
    else
        run sudo "$@"
    fi
}

# put FILE MODE: standard input becomes FILE, in one step
put() {
    text=$(cat)
    if [ -f "$1" ] && [ "$(cat "$1")" = "$text" ]; then
        note "$1 is as it should be"
    elif [ "$DRY_RUN" = yes ]; then
        note "would write $1"
        case $1 in "$VENV"/*) ;; *) printf '%s\n' "$text" | sed 's/^/      /' ;; esac
    else
        printf '%s\n' "$text" >"$1.new"
        chmod "$2" "$1.new"
        mv -f "$1.new" "$1"
        note "wrote $1"
    fi
}

# made_here FILE: whether it is one of ours, and not one of the user's that has the name
made_here() {
    [ -f "$1" ] || return 1
    case $(sed -n 1p "$1") in "$MADE_HERE"*) ;; *) return 1 ;; esac
}

has_line() { [ -f "$1" ] && tr -d '\r' <"$1" | grep -Fqx -- "$2"; }

# append_line FILE LINE: whether FILE ends with a new line stays as it is, so that it can be taken back to the byte
append_line() {
    if has_line "$1" "$2"; then
        note "$1 has the line $2"
    elif [ "$DRY_RUN" = yes ]; then
        note "would add to $1: $2"
    else
        line="$2$LF"
        if [ -n "$(tail -c 1 "$1")" ]; then line=$LF$2; fi
        printf '%s' "$line" >>"$1"
        MOONRAKER_IS_STALE=yes
        note "added to $1: $2"
    fi
}

# remove_line FILE LINE: in place, for FILE may be a link
remove_line() {
    has_line "$1" "$2" || return 0
    if [ "$DRY_RUN" = yes ]; then
        note "would take out of $1: $2"
        return
    fi
    rest=$(awk -v line="$2" '{ bare = $0; sub(/\r$/, "", bare) } bare != line' "$1" && printf x)
    rest=${rest%x}
    if [ -n "$(tail -c 1 "$1")" ]; then rest=${rest%?}; fi
    printf '%s' "$rest" >"$1"
    note "took out of $1: $2"
}

# ---- looking

parse_options() {
    for option in "$@"; do
        case $option in
        --dry-run) DRY_RUN=yes ;;
        --uninstall) UNINSTALL=yes ;;
        --non-interactive) INTERACTIVE=no ;;
        --update-manager) UPDATE_MANAGER=yes ;;
        --no-update-manager) UPDATE_MANAGER=no ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            printf 'install.sh: there is no option %s\n' "$option" >&2
            usage >&2
            exit 2
            ;;
        esac
    done
}

# The data folders of this user's Moonrakers, one a line; the last is where Creality's printers have it. In the order of
# config_file.py, whatever the locale.
find_instances() {
    LC_ALL=C
    for folder in "$HOME/printer_data" "$HOME"/printer_*_data "${DESTDIR:-}/usr/data/printer_data"; do
        if [ -f "$folder/config/moonraker.conf" ]; then printf '%s\n' "$folder"; fi
    done
}

check_user() {
    [ "$(id -u)" = 0 ] || return 0
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        die "run it as $SUDO_USER, without sudo: it asks for sudo where it must"
    fi
    [ -n "$INSTANCES" ] || die "run it as the user who runs Klipper, not as root: root has no Moonraker in $HOME"
}

# Another path would need quoting in a unit, a shebang and a .pth file, each with rules of its own.
check_plain() {
    for path in "$@"; do
        case $path in
        *[!A-Za-z0-9/._@+-]*) die "$path has characters other than letters, digits and / . _ @ + -: use another path" ;;
        esac
    done
}

check_paths() {
    check_plain "$HOME" "$REPO"
    OLD_IFS=$IFS
    IFS=$LF # an instance's name may have blanks
    set -f
    for instance in $INSTANCES; do check_plain "$instance"; done
    set +f
    IFS=$OLD_IFS
    if [ -e "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ]; then
        die "$VENV is there, and is no Python environment: move it away"
    fi
}

# check_writable PATH...: each can be written to or, where it is not there yet, be made
check_writable() {
    for path in "$@"; do
        while [ ! -e "$path" ]; do path=$(dirname -- "$path"); done
        [ -w "$path" ] || die "$path cannot be written to: sudo chown $(id -un) $path, then run this again"
    done
}

# All that is going to be changed, without sudo.
check_files() {
    check_writable "$HOME" "$DATA"
    if [ ! -e "$CONFIG" ]; then check_writable "$CONFIG"; fi
    if [ ! -e "$LOGS" ]; then check_writable "$LOGS"; fi
    for instance in $INSTANCES; do
        if [ -f "$instance/moonraker.asvc" ]; then check_writable "$instance/moonraker.asvc"; fi
        if [ "$UPDATE_MANAGER" = yes ]; then
            check_writable "$instance/config" "$instance/config/moonraker.conf"
        fi
    done
}

is_appliance() { [ -d "${DESTDIR:-}/usr/data" ] || [ -e "${DESTDIR:-}/etc/openwrt_release" ]; }

# Sets PYTHON and its VERSION.
find_python() {
    if [ -z "${PYTHON:-}" ]; then
        set -- python3 python3.14 python3.13 python3.12 python3.11
    else
        command -v "$PYTHON" >/dev/null || die "there is no PYTHON=$PYTHON: name another, or leave it out"
        set -- "$PYTHON"
    fi
    seen=none
    for PYTHON in "$@"; do
        VERSION=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then return; fi
        seen="$VERSION"
    done
    if is_appliance; then
        die "this printer's own system cannot run the agent (Python 3.11 is needed, here: $seen):" \
            "run it on another computer in your network, see docs/install.md"
    fi
    die "Python 3.11 or newer is needed, here: $seen; Debian 12 and Raspberry Pi OS Bookworm have it"
}

check_packages() {
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$PYTHON cannot make virtual environments: sudo apt-get install python3-venv, then run this again"
    # A 32-bit Raspberry Pi OS gets Pillow from piwheels.org, built against Debian's library; other wheels bring it along.
    "$PYTHON" -c 'import ctypes, struct; struct.calcsize("P") > 4 or ctypes.CDLL("libopenjp2.so.7")' 2>/dev/null ||
        die "a library for pictures is missing: sudo apt-get install libopenjp2-7, then run this again"
    if [ "$UPDATE_MANAGER" = yes ] && [ -z "$(clone_origin)" ]; then
        die "--update-manager needs a git clone, on a branch, with a remote origin; $REPO is none"
    fi
}

check_disk() {
    free=$(df -Pk "$HOME" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$DISK_NEEDED" ] || die "the disk is nearly full: $HOME has $free MB free, $DISK_NEEDED MB are needed"
}

# systemd is the first process, or it cannot start a service: `offline` and `unknown` say that it is not.
find_systemd() {
    SYSTEMD=no
    command -v systemctl >/dev/null || return 0
    case $(systemctl is-system-running 2>/dev/null || true) in
    '' | offline | unknown) ;;
    *) SYSTEMD=yes ;;
    esac
}

# The last of the checks, for it may ask for a password.
check_sudo() {
    if [ "$SYSTEMD" = no ] || [ "$(id -u)" = 0 ]; then return; fi
    if [ "$UNINSTALL" = yes ] && [ ! -f "$UNIT" ]; then return; fi
    command -v sudo >/dev/null || die "a service is installed with sudo, which is not there: install sudo first"
    if [ "$DRY_RUN" = yes ] || sudo -n true 2>/dev/null; then return; fi
    if [ "$INTERACTIVE" = no ]; then die "sudo asks for a password here, and --non-interactive cannot give one"; fi
    say "The service needs sudo: it asks for your password now, before anything is changed."
    sudo -v || die "without sudo there can be no service; nothing was changed"
}

# Sets CONFIG, the first that is there of those which config_file.py looks for, or that of the first Moonraker; DATA and
# LOGS, the folders in which the agent writes; its printers' URLs as KNOWN_URLS, their names and ids as KNOWN_NAMES.
find_config() {
    CONFIG=$(config_files | sed -n 1p)
    folder=$(printf '%s\n' "$INSTANCES" | sed -n 1p)
    CONFIG=${CONFIG:-${folder:+$folder/config/printago.cfg}}
    [ -n "$CONFIG" ] || die "there is no Moonraker in $HOME/printer_data or $HOME/printer_*_data: install Moonraker" \
        "first; for printers on other hosts, write $HOME/printer_data/config/printago.cfg, see docs/install.md"
    folder=${CONFIG%/config/printago.cfg}
    DATA=$folder/printago
    LOGS=$folder/logs
    KNOWN_URLS=
    KNOWN_NAMES=
    [ -f "$CONFIG" ] || return 0
    facts=$(read_config "$CONFIG") || die "nothing was changed, because the configuration has a mistake: $facts"
    DATA=$(fact data)
    LOGS=$(fact log)
    if [ -n "$LOGS" ]; then LOGS=$(dirname -- "$LOGS"); else LOGS=$folder/logs; fi
    KNOWN_URLS=$(fact url | one_host)
    KNOWN_NAMES=$(fact name)
    check_plain "$DATA" "$LOGS"
}

config_files() {
    LC_ALL=C
    for folder in "$HOME/printer_data" "$HOME"/printer_*_data $INSTANCES; do
        if [ -f "$folder/config/printago.cfg" ]; then printf '%s\n' "$folder/config/printago.cfg"; fi
    done
}

# fact NAME: the values of that name in what read_config has said
fact() { printf '%s\n' "$facts" | sed -n "s/^$1 //p"; }

# Three names for this host: a Moonraker that is written down under one is no other printer under the next.
one_host() { sed 's|//localhost$|//127.0.0.1|; s|//localhost\([:/]\)|//127.0.0.1\1|; s|//\[::1\]|//127.0.0.1|'; }

# read_config FILE: what it says, or what is wrong with it. config.py needs nothing but Python itself.
read_config() {
    PYTHONPATH=$REPO "$PYTHON" -B - "$1" <<'END'
import sys
from pathlib import Path
from printago_moonraker import config, errors

try:
    settings = config.load(Path(sys.argv[1]))
except errors.ConfigError as error:
    print(error)
    sys.exit(1)
print("data", settings.printago.data_path)
if settings.printago.log_path:
    print("log", settings.printago.log_path)
for each in settings.printers:
    print("url", each.moonraker_url)
    for name in {each.name, each.printer_id}:
        print("name", name)
END
}

# server_option FILE NAME: what [server] of a moonraker.conf says, or nothing
server_option() {
    awk -v name="$2" '
        /^\[/ { inside = /^\[[[:space:]]*server[[:space:]]*\]/; next }
        inside && match($0, "^" name "[[:space:]]*[:=]") {
            value = substr($0, RLENGTH + 1)
            sub(/[[:space:]]+[#;].*$/, "", value)
            gsub(/^[[:space:]]+|[[:space:]]+$/, "", value)
            print value
            exit
        }' "$1"
}

moonraker_url() {
    conf=$1/config/moonraker.conf
    host=$(server_option "$conf" host)
    port=$(server_option "$conf" port)
    prefix=$(server_option "$conf" route_prefix)
    case $host in '' | all | 0.0.0.0 | :: | localhost) host=127.0.0.1 ;; *:*) host="[$host]" ;; esac
    case $port in '' | *[!0-9]*) port=7125 ;; esac
    prefix=${prefix#/}
    printf 'http://%s:%s%s\n' "$host" "$port" "${prefix:+/${prefix%/}}"
}

# printer_data is named after the host, printer_voron_data voron, printer_2_data after both.
printer_name() {
    host=$(uname -n | sed 's/\..*//' | tr -c 'A-Za-z0-9_\n-' '-')
    name=$(basename "$1" | sed 's/^printer_data$//; s/^printer_\(.*\)_data$/\1/' | tr -c 'A-Za-z0-9_\n-' '-')
    case $name in
    '') name=${host:-printer} ;;
    *[!0-9]*) ;;
    *) name=${host:-printer}-$name ;;
    esac
    printf '%.60s\n' "$name"
}

# free_name NAME: itself, or with the first number that makes it one which nobody has
free_name() {
    name=$1
    number=1
    while printf '%s\n' "$names" | grep -Fqx -- "$name"; do
        number=$((number + 1))
        name=$1-$number
    done
    printf '%s\n' "$name"
}

printer_sections() {
    names=$KNOWN_NAMES
    urls=
    for instance in $INSTANCES; do
        url=$(moonraker_url "$instance")
        place=$(printf '%s\n' "$url" | one_host)
        if printf '%s\n' "$KNOWN_URLS" | grep -Fqx -- "$place"; then continue; fi
        if printf '%s\n' "$urls" | grep -Fqx -- "$place"; then
            note "$instance is left out: another one has its address, $url" >&2
            continue
        fi
        urls=$urls$LF$place
        printer=$(free_name "$(printer_name "$instance")")
        names=$names$LF$printer
        printf '\n[printer %s]\nmoonraker_url: %s\n' "$printer" "$url"
    done
}

# Without the user and password that a URL may hold: Moonraker shows the update entry to everyone.
clone_origin() { raw_origin | sed 's|^\(https\{0,1\}://\)[^/]*@|\1|'; }

raw_origin() {
    git -C "$REPO" symbolic-ref --quiet HEAD >/dev/null 2>&1 || return 0
    git -C "$REPO" remote get-url origin 2>/dev/null || true
}

# Sets UPDATE_MANAGER to yes or no: it stays what it was, or the user is asked.
ask_for_update_manager() {
    [ "$UPDATE_MANAGER" = ask ] || return 0
    UPDATE_MANAGER=no
    [ -n "$(clone_origin)" ] || return 0
    for instance in $INSTANCES; do
        if made_here "$instance/config/$DROP_IN" && has_line "$instance/config/moonraker.conf" "$INCLUDE"; then
            UPDATE_MANAGER=yes
        fi
    done
    if [ "$UPDATE_MANAGER" = yes ] || [ "$INTERACTIVE" = no ] || [ "$DRY_RUN" = yes ] || [ ! -t 0 ]; then return; fi
    printf 'Shall Moonraker keep the agent up to date (a line in moonraker.conf)? [y/N] '
    read -r answer || answer=
    case $answer in [yY]*) UPDATE_MANAGER=yes ;; esac
}

# ---- changing

install_environment() {
    say "Python environment ($PYTHON, $VERSION)"
    # An upgrade of the host's Python leaves an environment behind that cannot start.
    if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null || [ ! -d "$VENV/lib/python$VERSION" ]; then
        run "$PYTHON" -m venv --clear "$VENV"
    fi
    run "$VENV/bin/python" -m pip --disable-pip-version-check install --quiet --upgrade \
        --requirement "$HOST_FILES/requirements.txt" ||
        die "pip cannot install what the agent needs, see above; look to the network, then run this again"
    # The code is run where it is: after `git pull` there is nothing to build. A copy that pip made would hide it.
    packages=$VENV/lib/python$VERSION/site-packages
    if [ -d "$packages/printago_moonraker" ]; then run "$VENV/bin/python" -m pip uninstall --quiet --yes "$NAME"; fi
    say "$REPO" | put "$packages/$NAME.pth" 644
    sed "s|^#!.*|#!$VENV/bin/python|" "$HOST_FILES/launcher" | put "$VENV/bin/$NAME" 755
}

install_config() {
    say "Configuration"
    if [ -f "$CONFIG" ]; then
        note "$CONFIG is there, and stays as it is"
        missing=$(printer_sections)
        if [ -n "$missing" ]; then
            note "it lacks printers of this host; to serve them, add:"
            printf '%s\n' "$missing" | sed '/^$/d; s/^/      /'
        fi
    else
        { starting_config && printer_sections; } | put "$CONFIG" 644
    fi
    if [ ! -d "$DATA" ]; then run mkdir -m 700 -p "$DATA"; fi
    if [ ! -d "$LOGS" ]; then run mkdir -p "$LOGS"; fi
}

starting_config() {
    cat <<END
# printago-moonraker; all options: $REPO/docs/configuration.md
# After a change: sudo systemctl restart $NAME. After a change of data_path or log_path: ./install.sh again.
END
    if [ "$DATA" != "$HOME/printer_data/printago" ]; then printf '\n[printago]\ndata_path: %s\n' "$DATA"; fi
    cat <<END

# A printer's name is what Printago knows it by: no two printers of an account may have the same.
END
}

# Moonraker makes moonraker.asvc at its first start, with its own services in it: not to be forestalled.
allow_service() {
    say "Moonraker's permission to restart the service"
    for instance in $INSTANCES; do
        if [ -f "$instance/moonraker.asvc" ]; then
            append_line "$instance/moonraker.asvc" "$NAME"
        else
            note "$instance has no moonraker.asvc yet: start Moonraker once, then run this again"
        fi
    done
}

install_update_manager() {
    if [ "$UPDATE_MANAGER" = no ]; then
        for instance in $INSTANCES; do
            if ! has_line "$instance/config/moonraker.conf" "$INCLUDE"; then continue; fi
            say "Moonraker's update manager"
            note "$instance/config/moonraker.conf goes on including $DROP_IN: delete that line to end it"
        done
        return
    fi
    say "Moonraker's update manager"
    if [ "$(raw_origin)" != "$(clone_origin)" ]; then
        note "the origin of $REPO has a password in it, which Moonraker is not told; take it out there, too:"
        note "git -C $REPO remote set-url origin $(clone_origin)"
    fi
    for instance in $INSTANCES; do
        conf=$instance/config/moonraker.conf
        file=$instance/config/$DROP_IN
        if grep -q "^\[update_manager $NAME\]" "$conf"; then
            note "$conf has an entry of its own, which stays"
        elif [ -e "$file" ] && ! made_here "$file"; then
            note "$file is yours, and stays: put the section of $REPO/moonraker.conf.example into moonraker.conf by hand"
        else
            # The file first: Moonraker does not start when it cannot find what it shall include.
            update_entry | put "$file" 644
            append_line "$conf" "$INCLUDE"
        fi
    done
}

update_entry() {
    printf '%s from moonraker.conf.example; running it again makes it anew.\n#\n' "$MADE_HERE"
    branch=$(git -C "$REPO" symbolic-ref --short HEAD)
    origin=$(clone_origin) branch=$branch repo=$REPO venv=$VENV awk '
        /^path:/ { $0 = "path: " ENVIRON["repo"] }
        /^virtualenv:/ { $0 = "virtualenv: " ENVIRON["venv"] }
        /^origin:/ { $0 = "origin: " ENVIRON["origin"] }
        /^primary_branch:/ { $0 = "primary_branch: " ENVIRON["branch"] }
        { print }' "$REPO/moonraker.conf.example"
}

unit_text() {
    sed -e "s|@USER@|$(id -un)|; s|@REPO@|$REPO|; s|@VENV@|$VENV|; s|@CONFIG@|$CONFIG|; s|@DATA@|$DATA|; s|@LOGS@|$LOGS|" \
        "$HOST_FILES/$NAME.service"
}

install_service() {
    say "Service"
    if [ "$SYSTEMD" = no ]; then
        note "no systemd runs here: start the agent by what starts Moonraker, with"
        note "$VENV/bin/$NAME run -c $CONFIG"
        return
    fi
    if [ "$(id -u)" != 0 ]; then note "sudo is needed to write $UNIT, and to start it"; fi
    if [ -f "$UNIT" ] && [ "$(cat "$UNIT")" = "$(unit_text)" ]; then
        note "$UNIT is as it should be"
    elif [ "$DRY_RUN" = yes ]; then
        unit_text | put "$UNIT" 644
    else
        unit_text >"$VENV/$NAME.service"
        as_root install -m 644 "$VENV/$NAME.service" "$UNIT"
        note "wrote $UNIT"
    fi
    as_root systemctl daemon-reload
    as_root systemctl enable --quiet "$NAME"
    as_root systemctl restart "$NAME" || die "the service does not start: journalctl -u $NAME -n 20 says why"
}

# An installation is not failed because the host is not paired yet: what doctor finds is the next thing to do.
examine() {
    if [ "$DRY_RUN" = yes ]; then
        printf '\nNothing was touched.\n'
        return
    fi
    say "" && say "Installed; doctor finds:"
    "$VENV/bin/$NAME" doctor -c "$CONFIG" || true
    cat <<END

To do, where it is not done yet:
  - Look through $CONFIG: are these the printers' names?
  - Link this host to your Printago account:
      $VENV/bin/$NAME pair -c $CONFIG
END
    if [ "$SYSTEMD" = yes ]; then
        note "- After a change of the configuration: sudo systemctl restart $NAME; its log: journalctl -u $NAME"
    else
        note "- Have the agent started with the host: $VENV/bin/$NAME run -c $CONFIG"
    fi
    if [ "$MOONRAKER_IS_STALE" = yes ]; then
        note "- Restart Moonraker when nothing is printing: it reads the files that have changed only at its start."
    fi
}

uninstall() {
    say "Service"
    if [ -f "$UNIT" ]; then
        if [ "$(id -u)" != 0 ]; then note "sudo is needed to stop it, and to remove $UNIT"; fi
        if [ "$SYSTEMD" = yes ]; then
            as_root systemctl disable --quiet --now "$NAME"
            as_root systemctl clean --what=cache "$NAME" || note "what systemd keeps in /var/cache/$NAME stays"
        fi
        as_root rm -f "$UNIT"
        if [ "$SYSTEMD" = yes ]; then as_root systemctl daemon-reload; fi
    fi
    say "Moonraker's files"
    for instance in $INSTANCES; do
        remove_line "$instance/moonraker.asvc" "$NAME"
        file=$instance/config/$DROP_IN
        if [ -e "$file" ] && ! made_here "$file"; then continue; fi
        remove_line "$instance/config/moonraker.conf" "$INCLUDE"
        if [ -e "$file" ]; then run rm -f "$file"; fi
    done
    yours=$(find_yours)
    say "Python environment"
    if [ -f "$VENV/pyvenv.cfg" ]; then run rm -rf "$VENV"; fi
    say "What stays, because it is yours:"
    printf '%s\n' "$yours" "$REPO" | sed '/^$/d; s/^/  /'
    warn_of_entries
}

# What there is of the agent's own, one a line; also where the configuration has put it. It takes Python to read that.
find_yours() {
    PYTHON=$VENV/bin/python
    if [ ! -x "$PYTHON" ]; then PYTHON=python3; fi
    {
        for folder in "$HOME/printer_data" "$HOME"/printer_*_data $INSTANCES; do
            printf '%s\n' "$folder/printago" "$folder/printago/credentials.json" "$folder"/logs/printago.log*
        done
        for file in $(config_files); do
            printf '%s\n' "$file"
            facts=$(read_config "$file" 2>/dev/null) || facts=
            DATA=$(fact data)
            LOG=$(fact log)
            printf '%s\n' "$DATA" "$DATA/credentials.json" "$LOG" "$LOG.1" "$LOG.2"
        done
    } | sort -u | while read -r each; do if [ -e "$each" ]; then printf '%s\n' "$each"; fi; done
}

# An entry that somebody has copied by hand is not ours to take out; Moonraker complains about it.
warn_of_entries() {
    for instance in $INSTANCES; do
        for conf in "$instance"/config/*.conf; do
            if grep -q "^\[update_manager $NAME\]" "$conf" && ! made_here "$conf"; then
                note "$conf still has [update_manager $NAME], whose environment is gone: take it out, restart Moonraker"
            fi
        done
    done
}

main() {
    parse_options "$@"
    INSTANCES=$(find_instances)
    check_user
    check_paths
    find_systemd
    if [ "$UNINSTALL" = yes ]; then
        for instance in $INSTANCES; do
            for file in "$instance/moonraker.asvc" "$instance/config/moonraker.conf"; do
                if has_line "$file" "$NAME" || has_line "$file" "$INCLUDE"; then check_writable "$file"; fi
            done
        done
        check_sudo
        uninstall
        return
    fi
    find_python
    check_packages
    check_disk
    find_config
    ask_for_update_manager
    check_files
    check_sudo
    install_environment
    install_config
    allow_service
    install_update_manager
    install_service
    examine
}

main "$@"

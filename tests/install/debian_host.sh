#!/bin/bash
# install.sh on a whole Debian: debootstrap's, booted with its own systemd, the real Moonraker and the real sudo in it.
#
#     sudo tests/install/debian_host.sh
#
# Not a part of `make test`: it needs root, debootstrap, Debian's mirror and PyPI, and some minutes. What it makes is in a
# temporary folder and in namespaces of its own; once booted, it has no network but its loopback.
set -euo pipefail

REPO=$(cd "$(dirname "$0")/../.." && pwd)
SUITE=${SUITE:-bookworm}
WORK=$(mktemp -d /var/tmp/printago-host.XXXXXX)
ROOT=$WORK/root
CLEAN=(env -i "HOME=/home/pi" "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "LANG=C.UTF-8")
AGENT=/home/pi/printago-moonraker-env/bin/printago-moonraker
INIT=

cleanup() {
    if [ -n "$INIT" ]; then
        kill -KILL "$INIT"
        wait "$INIT" || true
    fi 2>/dev/null
    if mountpoint --quiet "$ROOT/proc"; then umount "$ROOT/proc"; fi
    rm -rf --one-file-system "$WORK"
}
trap cleanup EXIT

step() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'FAILED: %s\n' "$*" >&2
    inside journalctl --no-pager -n 30 >&2 || true
    exit 1
}
inside() { nsenter -t "$(pgrep -P "$INIT")" -m -p -u -i -n -C "${CLEAN[@]}" "$@"; }
inside_as_pi() { inside setpriv --reuid pi --regid pi --init-groups sh -c "cd && $1"; }
property() { inside systemctl show -P "$1" printago-moonraker; }
# eventually SECONDS COMMAND: until it succeeds
eventually() {
    for ((end = SECONDS + $1; SECONDS < end; )); do if "${@:2}"; then return; fi && sleep 0.5; done
    fail "${*:2}"
}

build() {
    step "Debian $SUITE"
    debootstrap --variant=minbase \
        --include=ca-certificates,dbus,git,iproute2,python3,python3-venv,libopenjp2-7,libsodium23,sudo,systemd "$SUITE" "$ROOT" >/dev/null
    chroot "$ROOT" useradd --create-home --shell /bin/sh pi
    echo "127.0.0.1 localhost $(uname -n)" >"$ROOT/etc/hosts"
    echo 'pi ALL=(ALL) NOPASSWD: ALL' >"$ROOT/etc/sudoers.d/pi"
    step "a clone of $REPO, uncommitted changes included"
    mkdir "$ROOT/home/pi/printago-moonraker"
    (cd "$REPO" && git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
        tar --null -T - -cf -) | tar -C "$ROOT/home/pi/printago-moonraker" -xf -
    mkdir -p "$ROOT/home/pi/printer_data/config"
    cat >"$ROOT/home/pi/printer_data/config/moonraker.conf" <<END
[server]
host: 127.0.0.1
port: 7125
[authorization]
trusted_clients: 127.0.0.1
[machine]
provider: systemd_cli
validate_service: False
validate_config: False
[update_manager]
enable_system_updates: False
END
    cat >"$ROOT/etc/systemd/system/moonraker.service" <<END
[Service]
User=pi
ExecStart=/home/pi/moonraker-env/bin/python -m moonraker -d /home/pi/printer_data
END
    chroot "$ROOT" chown -R pi:pi /home/pi
}

# Before it boots: what takes the network. install.sh is run here too, as on a host without systemd.
populate() {
    step "Moonraker from PyPI, and the agent where no systemd runs"
    cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
    certificates=${SSL_CERT_FILE:-${PIP_CERT:-}}
    if [ -n "$certificates" ]; then cp "$certificates" "$ROOT/tmp/ca.pem"; fi
    mount -t proc proc "$ROOT/proc"
    chroot --userspec=pi:pi "$ROOT" "${CLEAN[@]}" ${certificates:+PIP_CERT=/tmp/ca.pem} sh -euc '
        cd
        python3 -m venv moonraker-env
        moonraker-env/bin/pip install --quiet moonraker
        git config --global user.name pi && git config --global user.email pi@example.com
        git init --quiet --bare -b main remote.git
        cd printago-moonraker
        git init --quiet -b main && git add . && git commit --quiet -m one
        git remote add origin ~/remote.git && git push --quiet -u origin main
        ./install.sh --non-interactive | grep "no systemd runs here"
        ./install.sh --uninstall >/dev/null && rm ~/printer_data/config/printago.cfg
        ! [ -e ~/printago-moonraker-env ]
        # its packages, so that pip finds them when there is no network
        python3 -m venv ~/printago-moonraker-env
        ~/printago-moonraker-env/bin/pip install --quiet -r printago_moonraker/host/requirements.txt'
    umount "$ROOT/proc"
}

boot() {
    step "systemd"
    cat >"$WORK/boot" <<END
set -e
mount --make-rprivate / && mount --bind $ROOT $ROOT && cd $ROOT
mount -t proc proc proc && mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs run && mount -t tmpfs tmpfs tmp && mount -t tmpfs -o mode=755 tmpfs dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 dev/\${node%:*} c 1 \${node#*:}; done
mknod -m 666 dev/tty c 5 0 && ln -s pts/ptmx dev/ptmx
mount -t cgroup2 none sys/fs/cgroup
mount --bind proc/sys proc/sys && mount -o remount,ro,bind proc/sys
ip link set lo up
mkdir -p .host && pivot_root . .host && umount -l /.host
exec env -i container=unshare /lib/systemd/systemd --unit=basic.target --show-status=no
END
    unshare --mount --pid --fork --uts --ipc --net --cgroup --kill-child bash "$WORK/boot" >"$WORK/console" 2>&1 </dev/null &
    INIT=$!
    eventually 20 boots
    inside systemctl start moonraker
    eventually 20 test -s "$ROOT/home/pi/printer_data/moonraker.asvc"
}
boots() { [ "$(inside systemctl is-system-running 2>/dev/null)" = running ]; }

main() {
    build
    populate
    boot

    step "install.sh, twice"
    inside_as_pi 'cd printago-moonraker && PIP_NO_INDEX=1 ./install.sh --non-interactive --update-manager' || fail "install.sh"
    inside_as_pi 'cd printago-moonraker && PIP_NO_INDEX=1 ./install.sh --non-interactive' >/dev/null
    [ "$(property ActiveState)" = active ] || fail "the service does not run"
    found=$(inside_as_pi "$AGENT doctor" || true) # there is no Printago here, and no Klipper
    grep "✓ Moonraker" <<<"$found" || fail "doctor does not find Moonraker"
    inside systemd-analyze security --no-pager printago-moonraker | tail -1

    step "Moonraker updates it, and restarts the service"
    inside systemctl restart moonraker
    inside_as_pi 'git clone -q remote.git work && cd work && echo "__version__ = \"99.0\"" >printago_moonraker/__init__.py &&
        git commit -qam two && git push -q'
    before=$(property MainPID)
    eventually 30 updated
    [ "$(property MainPID)" != "$before" ] || fail "the service was not restarted"
    [ "$(inside_as_pi "$AGENT --version")" = "printago-moonraker 99.0" ] || fail "not updated"

    step "a hanging agent is killed and started again"
    inside sh -c 'mkdir -p /run/systemd/system/printago-moonraker.service.d && cd /run/systemd/system/printago-moonraker.service.d &&
        printf "[Service]\nWatchdogSec=2\n" >watchdog.conf && systemctl daemon-reload && systemctl restart printago-moonraker'
    inside systemctl kill --signal=STOP printago-moonraker
    eventually 30 restarted

    step "a broken configuration is not tried again"
    inside_as_pi 'echo "[mqqt]" >>printer_data/config/printago.cfg'
    if inside systemctl restart printago-moonraker 2>/dev/null; then fail "it starts"; fi
    [ "$(property ExecMainStatus) $(property ActiveState)" = "78 failed" ] || fail "it is tried again"

    step "uninstall"
    inside_as_pi 'cd printago-moonraker && ./install.sh --uninstall --non-interactive'
    [ ! -e "$ROOT/etc/systemd/system/printago-moonraker.service" ] || fail "the unit is left"
    inside systemctl restart moonraker
    eventually 20 inside_as_pi "test -S printer_data/comms/moonraker.sock"
    printf '\nAll is well.\n'
}
# Moonraker refuses while it still looks at the repositories for the first time.
updated() {
    inside_as_pi "python3 - <<'END'
import json, sys, urllib.request
def post(path):
    return json.load(urllib.request.urlopen(urllib.request.Request('http://127.0.0.1:7125' + path, method='POST'), timeout=60))
try:
    post('/machine/update/refresh?name=printago-moonraker')
    print(post('/machine/update/client?name=printago-moonraker'))
except OSError as error:
    sys.exit(1)
END"
}
restarted() { [ "$(property NRestarts) $(property ActiveState)" = "1 active" ]; }

main

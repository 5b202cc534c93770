#!/bin/bash
# Make a lab of a Debian 12 system: packages, headers of its kernel, the four commands.
#
# Run as root, any number of times; `vagrant up` does it, and a chroot may. What it needs of the
# network is a Debian mirror and PyPI. Everything is said by variables:
#
#   PROJECT_DIR    the project, only read (default: /vagrant)
#   INSTALL_PATH   virtual environment (default: /opt/dhcp-netlab). Not in the shared folder:
#                  that is slow, and on some hosts cannot hold links
#   LINK_PATH      where the commands are linked (default: /usr/local/bin)
#   EXTRAS         of pyproject.toml, comma-separated: dev has what the tests need (default: none)
#   http_proxy, https_proxy, no_proxy, PIP_INDEX_URL, PIP_CONFIG_FILE: as apt and pip know them

set -eu -o pipefail

PROJECT_DIR=${PROJECT_DIR:-/vagrant}
INSTALL_PATH=${INSTALL_PATH:-/opt/dhcp-netlab}
LINK_PATH=${LINK_PATH:-/usr/local/bin}
EXTRAS=${EXTRAS:-}
PACKAGES=(python3 python3-venv python3-bpfcc gcc make git kmod iproute2)
MODULES=(veth bridge 8021q sch_netem sch_tbf)
# What `lab doctor` asks of a machine that is for labs.
SYSCTLS=(net.core.netdev_max_backlog=10000 net.core.rmem_max=16777216 net.core.wmem_max=16777216
         net.ipv4.neigh.default.gc_thresh3=8192)

export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() { echo "dhcp-netlab: $*"; }

fail() {
    echo "dhcp-netlab: $1" >&2
    echo "             $2" >&2
    exit 1
}

check() {
    [ "$(id -u)" = 0 ] || fail "this installs packages: not for $(id -un)" "run it as root"
    [ -f "$PROJECT_DIR/pyproject.toml" ] \
        || fail "no project in $PROJECT_DIR" "set PROJECT_DIR to the directory of pyproject.toml"
    command -v apt-get dpkg > /dev/null || fail "no apt-get and dpkg here" "use a Debian 12 system"
}

# A box that has just booted may be updating itself: wait for that.
apt() { apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@"; }

# $@: packages; those that are there already cost nothing, not even a look at the mirror.
install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2> /dev/null | grep -qx installed \
            || missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then
        say "there already: $*"
        return
    fi
    say "installing ${missing[*]}"
    apt install --no-install-recommends "${missing[@]}" > "$log" 2>&1 || {
        tail -n 20 "$log" >&2
        fail "apt-get could not install ${missing[*]}" "see what it said above"
    }
}

newest_kernel() {
    find /boot -maxdepth 1 -name 'vmlinuz-*' -printf '%f\n' | sed 's/^vmlinuz-//' | sort -V | tail -n 1
}

# Not so in a chroot: there the running kernel is somebody else's.
runs_own_kernel() { [ -e "/boot/vmlinuz-$(uname -r)" ]; }

# Whether kernel $1 is there with all modules that a lab uses, built in or not.
has_modules() {
    local module
    for module in "${MODULES[@]}"; do
        modinfo -k "$1" "$module" > /dev/null 2>&1 || return 1
    done
}

has_package() { apt-cache show "$1" > /dev/null 2>&1; }

# A kernel that can do everything here, and its headers, which bcc compiles against. The mirror
# has headers of its newest kernel only: an older kernel gives way to that one.
install_kernel() {
    local arch found
    arch=$(dpkg --print-architecture)
    found=$(newest_kernel)
    if runs_own_kernel; then found=$(uname -r); fi
    if [ -n "$found" ] && has_modules "$found"; then
        if [ -e "/lib/modules/$found/build/Makefile" ]; then
            say "there already: headers of kernel $found"
            return
        elif has_package "linux-headers-$found"; then
            install_packages "linux-headers-$found"
            return
        fi
    fi
    say "kernel ${found:-(none)} lacks modules or headers: taking Debian's newest"
    install_packages "linux-image-$arch" "linux-headers-$arch"
    ! runs_own_kernel || say "restart to run kernel $(newest_kernel): vagrant reload"
}

load_modules() {
    local module
    mkdir -p /etc/modules-load.d /etc/sysctl.d
    printf '%s\n' "${MODULES[@]}" > /etc/modules-load.d/dhcp-netlab.conf
    printf '%s\n' "${SYSCTLS[@]}" > /etc/sysctl.d/60-dhcp-netlab.conf
    if ! runs_own_kernel; then
        say "modules and settings: from the next boot on"
        return
    fi
    for module in "${MODULES[@]}"; do
        modprobe "$module" || say "no module $module in kernel $(uname -r)"
    done
    sysctl -q -p /etc/sysctl.d/60-dhcp-netlab.conf || say "some settings were refused"
}

# Built from a copy: building writes beside what it builds. Only pinned versions are taken.
install_project() {
    local program wanted=.
    [ -z "$EXTRAS" ] || wanted=".[$EXTRAS]"
    say "installing $PROJECT_DIR into $INSTALL_PATH"
    tar -C "$PROJECT_DIR" -c --exclude=./.git --exclude=./.venv --exclude=./.vagrant \
        --exclude=./build --exclude=./results --exclude='./.*_cache' --exclude=./.hypothesis \
        --exclude='*.egg-info' --exclude=__pycache__ . | tar -C "$scratch" -x --no-same-owner
    [ -x "$INSTALL_PATH/bin/python" ] || python3 -m venv "$INSTALL_PATH"
    (cd "$scratch" && "$INSTALL_PATH/bin/python" -m pip install --quiet \
        --constraint constraints.txt "$wanted") \
        || fail "pip could not install the project" "see what it said above"
    mkdir -p "$LINK_PATH"
    for program in lab dhcp-server dhcp-relay dhcp-tester; do
        ln -sfn "$INSTALL_PATH/bin/$program" "$LINK_PATH/$program"
    done
}

check
scratch=$(mktemp -d)
log=$(mktemp)
trap 'rm -rf "$scratch" "$log"' EXIT
say "asking the Debian mirror what there is"
apt update > "$log" 2>&1 || { cat "$log" >&2; fail "apt-get update failed" "is there a network?"; }
install_packages "${PACKAGES[@]}"
install_kernel
load_modules
install_project
say "ready: $("$LINK_PATH/lab" --version)"

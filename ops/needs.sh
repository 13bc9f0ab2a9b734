# Sourced by ops/demo and ops/test: installs what is missing, or says what to install and ends.

say() { printf '%s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }
}

has_postgres() {
    [ -n "${COLDSTREAM_PG_BIN:-}" ] && [ -x "$COLDSTREAM_PG_BIN/initdb" ] && return 0
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1
}

# need WHAT PACKAGES... : WHAT is a command, or "postgres".
missing=""
need() {
    what=$1; shift
    if [ "$what" = postgres ]; then has_postgres && return 0; else command -v "$what" >/dev/null 2>&1 && return 0; fi
    missing="$missing $*"
}

install_missing() {
    [ -n "$missing" ] || return 0
    if ! may_install; then
        say "missing:$missing"
        say "install with: apt-get install --no-install-recommends$missing"
        exit 1
    fi
    say "installing:$missing"
    # Without its own cluster: we make private ones.
    if [ ! -e /etc/postgresql-common/createcluster.conf ] && printf '%s' "$missing" | grep -q postgresql; then
        as_root mkdir -p /etc/postgresql-common
        printf 'create_main_cluster = false\n' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

# Debian's promtool alone, unpacked beside the build: its package would start a server. The test that needs it says so
# where it cannot be had, and is skipped.
want_promtool() {
    command -v promtool >/dev/null 2>&1 && return 0
    tools=${CARGO_TARGET_DIR:-$PWD/target}/tools
    if [ ! -x "$tools/usr/bin/promtool" ]; then
        mkdir -p "$tools"
        fetch_promtool || { refresh_packages && fetch_promtool; } || {
            say "promtool cannot be had: the alerts are not held to their tests (Debian: apt-get install prometheus)"
            return 0
        }
    fi
    PATH=$PATH:$tools/usr/bin; export PATH
}

fetch_promtool() {
    (
        cd "$tools" && rm -f prometheus_*.deb && timeout 60 apt-get download -qq prometheus &&
            dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && rm -f prometheus_*.deb
    ) >/dev/null 2>&1
}

# schemathesis from PyPI, in an environment of its own beside the build. The test that needs it says so where it cannot
# be had, and is skipped.
want_schemathesis() {
    command -v schemathesis >/dev/null 2>&1 && return 0
    venv=${CARGO_TARGET_DIR:-$PWD/target}/schemathesis
    if [ ! -x "$venv/bin/schemathesis" ]; then
        fetch_schemathesis >/dev/null 2>&1 || {
            say "schemathesis cannot be had: its requests are not sent (pip install schemathesis)"
            return 0
        }
    fi
    PATH=$PATH:$venv/bin; export PATH
}

fetch_schemathesis() {
    python3 -m venv "$venv" && timeout 300 "$venv/bin/pip" install --quiet schemathesis==4.32.5
}

refresh_packages() {
    may_install && as_root timeout 60 apt-get update -qq >/dev/null 2>&1
}

need_rust() {
    command -v cargo >/dev/null 2>&1 && return 0
    [ -x "$HOME/.cargo/bin/cargo" ] && { PATH="$HOME/.cargo/bin:$PATH"; export PATH; return 0; }
    say "missing: a Rust toolchain (cargo); see rust-toolchain.toml for its version"
    exit 1
}

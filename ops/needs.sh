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
            skip "promtool: the alerts are not held to their tests (apt-get install prometheus)"
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

# schemathesis and DuckDB from PyPI, in an environment of their own beside the build. The tests that need them say so where
# they cannot be had, and are skipped.
want_python_tools() {
    venv=${CARGO_TARGET_DIR:-$PWD/target}/python-tools
    PATH=$PATH:$venv/bin; export PATH
    command -v schemathesis >/dev/null 2>&1 || fetch_from_pypi schemathesis==4.32.5 || true
    has_duckdb || fetch_from_pypi duckdb==1.4.2 || true
    command -v schemathesis >/dev/null 2>&1 || skip "schemathesis: its requests are not sent (pip install schemathesis)"
    has_duckdb || skip "DuckDB: it does not read our segments (pip install duckdb)"
}

# Names the Python that has it.
has_duckdb() {
    for DUCKDB_PYTHON in "$venv/bin/python3" python3; do
        "$DUCKDB_PYTHON" -c 'import duckdb' >/dev/null 2>&1 && { export DUCKDB_PYTHON; return 0; }
    done
    unset DUCKDB_PYTHON
    return 1
}

fetch_from_pypi() {
    { [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"; } >/dev/null 2>&1 &&
        timeout 300 "$venv/bin/pip" install --quiet "$1" >/dev/null 2>&1
}

# Debian's radosgw with the Ceph that it stands on (69 MB, half a minute), for the object store's suite against an
# endpoint that is not ours. Only the download is bounded: an installation that is cut off would leave packages broken.
want_radosgw() {
    has_radosgw && return 0
    if may_install; then
        say "installing: $radosgw_packages"
        fetch_radosgw || { refresh_packages && fetch_radosgw; } || true
    fi
    has_radosgw || skip "radosgw: the object store's suite runs against ours only (apt-get install $radosgw_packages)"
}

radosgw_packages="radosgw ceph-mon ceph-osd"

has_radosgw() {
    for program in radosgw radosgw-admin ceph ceph-authtool ceph-mon ceph-osd monmaptool; do
        command -v "$program" >/dev/null 2>&1 || return 1
    done
}

fetch_radosgw() {
    # shellcheck disable=SC2086
    as_root timeout 180 apt-get install -y -qq --no-install-recommends --download-only $radosgw_packages >/dev/null 2>&1 &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends --no-download $radosgw_packages >/dev/null 2>&1
}

# Small disks of their own, for the tests of full ones: file systems in memory, which they mount as the user that runs them.
want_small_disks() {
    folder=$(mktemp -d)
    if mount -t tmpfs -o size=1m tmpfs "$folder" >/dev/null 2>&1; then
        umount "$folder"
    else
        skip "full disks: appends, WAL and their way back are not tried on one (this user may not mount a tmpfs; root may)"
    fi
    rmdir "$folder"
}

# What is not proven on this machine; said at once, and again at the end.
skipped=""
skip() {
    say "skipped: $1"
    skipped="$skipped
  $1"
}

say_what_was_skipped() {
    if [ -n "$skipped" ]; then say "skipped, for want of what this machine does not have:$skipped"; else say "nothing was skipped"; fi
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

#!/bin/sh
# Installs with apt what `make demo` and `make test` need and this machine lacks. Starts no server,
# creates no cluster, leaves the configuration of servers that run here alone. Does nothing, quickly,
# where all is there. With the argument demo, what only tests and benchmarks need is left out.
set -eu

missing=
need() { missing="$missing $1"; }

# A PostgreSQL server and its PL/Python: the one that the Makefile would take.
if [ -z "${PG_CONFIG:-}" ]; then
    for candidate in pg_config $(ls -vr /usr/lib/postgresql/*/bin/pg_config 2>/dev/null); do
        if [ -x "$("$candidate" --bindir 2>/dev/null)/postgres" ]; then
            PG_CONFIG=$candidate
            break
        fi
    done
fi
if [ -z "${PG_CONFIG:-}" ]; then
    need postgresql
    need postgresql-plpython3
elif [ ! -e "$("$PG_CONFIG" --pkglibdir)/plpython3.so" ]; then
    need "postgresql-plpython3-$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')"
fi
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || need rabbitmq-server
# Debian splits Python: venv and pip are packages of their own.
/usr/bin/python3 -c 'import venv, ensurepip' 2>/dev/null || need python3-venv
/usr/bin/python3 -m pip --version >/dev/null 2>&1 || need python3-pip
[ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates
wanted=
if [ "${1:-}" != demo ]; then
    command -v influxd >/dev/null || need influxdb
    [ -x /usr/sbin/pgbouncer ] || need pgbouncer
    [ -x /usr/sbin/nginx ] || need nginx-light
    command -v curl >/dev/null || need curl
    # Puts the load on what is benchmarked over HTTP.
    command -v wrk >/dev/null || need wrk
    # What devices say by MQTT.
    command -v mosquitto_pub >/dev/null || need mosquitto-clients
    # Checks the alerts.
    command -v promtool >/dev/null || need prometheus
    # Counts the system calls of a publish.
    command -v strace >/dev/null || need strace
    # A browser and a font for the tests of examples/live. It is large, and not everywhere: without it they are skipped.
    if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
        wanted="chromium chromium-driver fonts-dejavu-core"
    fi
fi

[ -n "$missing$wanted" ] || exit 0

# ---- Something is missing ----

sudo=
if [ "$(id -u)" -ne 0 ]; then
    sudo=sudo
    command -v sudo >/dev/null || {
        [ -n "$missing" ] || exit 0
        echo "missing:$missing; install these as root, or install sudo" >&2
        exit 1
    }
fi
command -v apt-get >/dev/null || {
    [ -n "$missing" ] || exit 0
    echo "missing:$missing (Debian's names); this system has no apt, please install them" >&2
    exit 1
}

policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d
made_policy=
made_folder=
said=
restore() {
    [ -z "$said" ] || rm -f "$said"
    [ -z "$made_policy" ] || $sudo rm -f "$policy"
    $sudo rm -f "$clusters/pg_amqp_py.conf"
    if [ -n "$made_folder" ]; then $sudo rmdir -p --ignore-fail-on-non-empty "$clusters"; fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Packages start their servers when they are installed; the tests bring their own.
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
fi
# Nor should Debian create a cluster named main.
if [ ! -d "$clusters" ]; then
    made_folder=yes
    $sudo mkdir -p "$clusters"
fi
echo 'create_main_cluster = false' | $sudo tee "$clusters/pg_amqp_py.conf" >/dev/null

# Packages are talkative: what they say matters when they fail.
said=$(mktemp)
apt() {
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >"$said" 2>&1 || {
        cat "$said" >&2
        exit 1
    }
}

apt update
case "$missing" in
*" postgresql-plpython3"[!-]* | *" postgresql-plpython3")
    # The major version that the package postgresql stands for here.
    major=$(apt-cache show postgresql |
        sed -n '/^Depends:/{s/.*postgresql-\([0-9][0-9]*\).*/\1/p;q}')
    missing=$(printf '%s' "$missing" | sed "s/ postgresql-plpython3\( \|\$\)/ postgresql-plpython3-$major\1/")
    ;;
esac

if [ -n "$missing" ]; then
    echo "installing for the private test servers (the installed ones are not started):$missing"
    # shellcheck disable=SC2086 # a list of names
    apt install --yes --no-install-recommends $missing
fi
if [ -n "$wanted" ]; then
    echo "installing for the tests of a page: $wanted"
    # shellcheck disable=SC2086 # a list of names
    (apt install --yes --no-install-recommends $wanted) || echo "without a browser these are skipped" >&2
fi

#!/bin/bash
# Prepares the database directory on the first start, then runs the command.
# Understands POSTGRES_PASSWORD[_FILE], POSTGRES_USER[_FILE], POSTGRES_DB[_FILE], POSTGRES_HOST_AUTH_METHOD,
# POSTGRES_INITDB_ARGS and the scripts in /docker-entrypoint-initdb.d.
set -euo pipefail

# value NAME DEFAULT: the variable NAME, or the content of the file that NAME_FILE names.
value() {
    local file_variable="$1_FILE"
    if [ -n "${!1:-}" ]; then
        printf '%s' "${!1}"
    elif [ -n "${!file_variable:-}" ]; then
        cat "${!file_variable}"
    else
        printf '%s' "$2"
    fi
}

sql() {
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --host=/var/run/postgresql "$@"
}

run_scripts() {
    local script
    for script in /docker-entrypoint-initdb.d/*; do
        case "$script" in
            *.sh) echo "running $script"; bash "$script" ;;
            *.sql) echo "running $script"; sql --username="$1" --dbname="$2" --file="$script" ;;
            *.sql.gz) echo "running $script"; gunzip -c "$script" | sql --username="$1" --dbname="$2" ;;
        esac
    done
}

initialise() {
    local user database password method
    user=$(value POSTGRES_USER postgres)
    database=$(value POSTGRES_DB "$user")
    password=$(value POSTGRES_PASSWORD "")
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [ -z "$password" ] && [ "$method" != trust ]; then
        echo "Error: the database is empty and POSTGRES_PASSWORD is not set." >&2
        echo "Set it (-e POSTGRES_PASSWORD=...), or allow everybody with POSTGRES_HOST_AUTH_METHOD=trust." >&2
        exit 1
    fi
    # shellcheck disable=SC2086 # the arguments are meant to be split
    initdb --username="$user" --pwfile=<(printf '%s\n' "${password:-unused}") --auth-local=trust \
        --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
    printf 'host all all all %s\n' "$method" >> "$PGDATA/pg_hba.conf"

    # Not reachable from outside until everything is in place.
    pg_ctl --pgdata="$PGDATA" --wait --silent --options="-c listen_addresses=''" start
    if [ "$database" != postgres ]; then
        sql --username="$user" --dbname=postgres --set=name="$database" <<< 'CREATE DATABASE :"name";'
    fi
    run_scripts "$user" "$database"
    pg_ctl --pgdata="$PGDATA" --wait --silent --mode=fast stop
}

if [ "${1:0:1}" = - ]; then
    set -- postgres "$@"
fi
if [ "$1" = postgres ]; then
    if [ "$(id -u)" = 0 ]; then
        mkdir -p "$PGDATA"
        chown -R postgres:postgres "$PGDATA" /var/run/postgresql
        chmod 0700 "$PGDATA"
        exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        initialise
    fi
    set -- "$@" -c listen_addresses='*'
fi
exec "$@"

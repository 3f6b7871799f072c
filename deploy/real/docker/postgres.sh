#!/bin/sh
# What the image's own entrypoint does for docker-compose.yml: a cluster in an empty volume, its database, its scripts.
set -eu
data=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
    chown postgres "$data" /var/run/postgresql
    chmod 700 "$data"
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
if [ ! -s "$data/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    initdb --pgdata="$data" --username=postgres --pwfile=/tmp/password --auth=scram-sha-256 --auth-local=trust --encoding=UTF8 \
        --locale-provider=builtin --locale=C.UTF-8
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    pg_ctl --pgdata="$data" --options="-c listen_addresses=127.0.0.1" --wait start
    createdb --username=postgres "$POSTGRES_DB"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql -v ON_ERROR_STOP=1 --username=postgres --dbname="$POSTGRES_DB" --file="$file"
    done
    pg_ctl --pgdata="$data" --mode=fast --wait stop
fi
exec "$@" -D "$data" -c listen_addresses='*'

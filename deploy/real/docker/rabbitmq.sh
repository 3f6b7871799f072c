#!/bin/sh
# The node, or by another name the tool of that name, as the account of the package.
set -eu
if [ "$(id -u)" = 0 ]; then
    chown rabbitmq:rabbitmq /var/lib/rabbitmq
    exec setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups env HOME=/var/lib/rabbitmq "$0" "$@"
fi
name="$(basename "$0")"
if [ "$name" = entrypoint ]; then name=rabbitmq-server; fi
exec "/usr/lib/rabbitmq/bin/$name" "$@"

#!/bin/sh
# docker-compose.yml from build to stop, in a tree with Docker that enter.sh has entered.
#   show.sh build    with the network of this machine: the images
#   show.sh run      with a network of its own: the stack
# /srv/run has base.tar, images (NAME TARGET, a line each), python (the name of the image that deploy/Dockerfile begins
# with), override.yml and .env. What it prints is for a person, what containers say goes to /srv/run/*.log.
set -eu
export HOME=/root COMPOSE_PROGRESS=plain COMPOSE_ANSI=never DOCKER_CLI_HINTS=false
compose="docker compose --project-directory /srv/project --env-file /srv/run/.env --file /srv/project/docker-compose.yml --file /srv/run/override.yml"

began() { start=$(date +%s); }
done_() { echo "$1: $(($(date +%s) - start)) s"; }
fail() {
    echo "FAILED: $1"
    exit 1
}

# until_ SECONDS WHAT COMMAND...
until_() {
    limit=$1 what=$2
    shift 2
    waited=0
    until "$@" >>/srv/run/waiting.log 2>&1; do
        waited=$((waited + 1))
        [ "$waited" -le "$limit" ] || fail "$what: not within $limit s"
        sleep 1
    done
}

start_docker() {
    began
    dockerd --cgroup-parent=towpath-real "$@" >/srv/run/dockerd.log 2>&1 &
    until_ 60 "dockerd answers" docker info
    done_ "dockerd $(docker version --format '{{.Server.Version}}')"
}

build() {
    start_docker --bridge=none --iptables=false --ip-forward=false
    if ! docker image inspect debian:trixie-slim >/dev/null 2>&1; then
        began
        docker import --change 'CMD ["/bin/sh"]' /srv/run/base.tar debian:trixie-slim >/dev/null
        done_ "debian:trixie-slim imported"
    fi
    while read -r name target; do
        began
        docker build --network host --build-context library=/srv/library --file deploy/real/docker/Dockerfile --target "$target" \
            --tag "$name" . >"/srv/run/build-$target.log" 2>&1 || fail "building a stand-in for $name: $(tail -n 5 "/srv/run/build-$target.log")"
        done_ "stand-in for $name"
    done </srv/run/images
    began
    docker build --network host --build-arg "PYTHON=$(cat /srv/run/python)" --file deploy/Dockerfile --tag towpath:local . \
        >/srv/run/build.log 2>&1 || fail "deploy/Dockerfile: $(tail -n 5 /srv/run/build.log)"
    done_ "deploy/Dockerfile, $(($(docker image inspect --format '{{.Size}}' towpath:local) / 1000000)) MB"
    docker run --rm --network none towpath:local sh -c 'test "$(id -u)" = 10001 && ! command -v cc && ! command -v gcc' ||
        fail "it runs as somebody else than 10001, or has a compiler"
    docker run --rm --network none --read-only --tmpfs /tmp --env SECRET_KEY=only-for-this-check-but-as-long-as-a-real-one-has-to-be \
        towpath:local python manage.py check >/srv/run/check.log 2>&1 || fail "manage.py check: $(tail -n 5 /srv/run/check.log)"
    echo "the image runs as nobody in particular, has no compiler, and starts Django on a read-only file system"
}

store() { # QUERY
    $compose exec -T clickhouse sh -c 'wget -qO- --header="X-ClickHouse-User: $CLICKHOUSE_USER" \
        --header="X-ClickHouse-Key: $CLICKHOUSE_PASSWORD" --post-data="$1" http://127.0.0.1:8123/' store "$1"
}
stored_is() { [ "$(store 'SELECT count() FROM towpath.event_log')" = "$1" ]; }
sql() { $compose exec -T postgres psql --username postgres --dbname towpath -v ON_ERROR_STOP=1 --quiet --no-align --tuples-only --command "$1"; }
publish() { # COUNT
    sql "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version, bound)
        SELECT 'user_created', now(), '{}', 1, '{}' FROM generate_series(1, $1)"
    committed=$((committed + $1))
}
sign_up() {
    number=$((number + 1))
    status=$(curl --silent --output /srv/run/answer --write-out '%{http_code}' --max-time 20 --header 'Content-Type: application/json' \
        --data "{\"email\": \"person$number@example.com\", \"first_name\": \"A\", \"last_name\": \"B\"}" http://127.0.0.1:8029/api/users)
    [ "$status" = 201 ] || fail "POST /api/users answered $status: $(head -c 300 /srv/run/answer)"
    committed=$((committed + 1))
}
all_healthy() {
    # One-shot containers have no check; all others have one.
    [ -z "$($compose ps --all --format '{{.Service}} {{.State}} {{.Health}}' | grep -v '^migrate ' | grep -v ' running healthy$')" ]
}
pid_of() { docker inspect --format '{{.State.Pid}}' "$1"; }
is_another() { # CONTAINER PID
    [ "$(pid_of "$1")" != "$2" ] && [ "$(pid_of "$1")" != 0 ]
}
is_well() { $compose exec -T dispatcher python manage.py pipeline doctor >/srv/run/doctor.log 2>&1; }

run() {
    committed=0 number=0
    ip link set lo up
    start_docker
    trap '$compose logs --no-color >/srv/run/containers.log 2>&1; $compose --profile demo down --volumes --timeout 5 >/srv/run/down.log 2>&1' EXIT
    $compose down --volumes --timeout 1 >/dev/null 2>&1 # what a run that was killed has left
    $compose --profile demo --profile observability config --quiet || fail "docker compose config"

    began
    $compose run --rm --no-TTY --env RABBITMQ_QUEUE_TYPE=quorum migrate >/srv/run/migrate.log 2>&1 || fail "migrate: $(tail -n 5 /srv/run/migrate.log)"
    done_ "migrate, with quorum queues"
    began
    $compose up --detach --no-build --pull never >/srv/run/up.log 2>&1 || fail "docker compose up: $(tail -n 5 /srv/run/up.log)"
    until_ 180 "all are healthy" all_healthy
    done_ "docker compose up, until all are healthy"
    grep -q 'queues quorum' /srv/run/migrate.log || fail "migrate: $(cat /srv/run/migrate.log)"

    # `up` has run migrate again, without the variable: a worker that connects anew must still get its queues.
    $compose restart dispatcher aggregator >/srv/run/restart.log 2>&1
    until_ 180 "all are healthy again" all_healthy
    began
    sign_up
    until_ 30 "the event is stored" stored_is "$committed"
    done_ "a POST is in event_log"
    until_ 150 "doctor finds nothing (doctor.log)" is_well
    done_ "pipeline doctor finds nothing"

    for service in aggregator dispatcher rabbitmq postgres clickhouse; do
        began
        publish 20000
        container=$($compose ps --quiet "$service" | head -n 1)
        pid=$(pid_of "$container")
        kill -9 "$pid"
        until_ 60 "$service is started again" is_another "$container" "$pid"
        until_ 120 "all are healthy after a kill -9 of $service" all_healthy
        until_ 120 "all is stored after a kill -9 of $service" stored_is "$committed"
        done_ "kill -9 of $service under 20,000 events, until all are stored and healthy"
    done

    publish 100000
    began
    $compose stop web scheduler dispatcher aggregator >/srv/run/stop.log 2>&1
    done_ "docker compose stop of the application under 100,000 events"
    $compose ps --all --format '{{.Service}} {{.ExitCode}}' | grep -E '^(web|dispatcher|aggregator) ' >/srv/run/codes
    ! grep -vE ' 0$' /srv/run/codes || fail "they did not end by themselves: $(tr '\n' ' ' </srv/run/codes)"
    began
    $compose up --detach --no-build --pull never >/srv/run/up.log 2>&1 || fail "docker compose up: $(tail -n 5 /srv/run/up.log)"
    until_ 120 "what was left is stored" stored_is "$committed"
    done_ "docker compose up, until what was left is stored"
    different=$(store 'SELECT uniqExact(outbox, outbox_id) FROM towpath.event_log')
    [ "$different" = "$committed" ] || fail "$committed events, $different in event_log"
    $compose exec -T dispatcher python manage.py pipeline verify >/srv/run/verify.log 2>&1 || fail "pipeline verify: $(tail -n 5 /srv/run/verify.log)"
    $compose logs --no-color >/srv/run/containers.log 2>&1
    began
    $compose stop >/srv/run/stop.log 2>&1
    done_ "docker compose stop of all"
    echo "$committed events published, $different stored, each once; every service killed once"
}

"$1"

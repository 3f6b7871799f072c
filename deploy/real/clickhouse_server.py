"""ClickHouse's own HTTP server, which `libchdb.so` has in it (SYSTEM START LISTEN), with the users of users.sql.

    python -m deploy.real.clickhouse_server --library FILE --data FOLDER --port N

The passwords are those of CLICKHOUSE_PASSWORD (an administrator, CLICKHOUSE_USER) and, for each user of users.sql,
CLICKHOUSE_MIGRATOR_PASSWORD and so on. The library ends the whole process when a client sends the head of an insert and
closes before its body: so the server is a child here, and is started again.

Nothing is imported that a bare Python does not have.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import time
from html import escape
from pathlib import Path
from types import FrameType

from deploy.clickhouse.users import SHORT_NAMES, fixed, grants, profile

#: The server listens while this runs: there is no statement that waits.
_FOR_EVER = (
    "CREATE DATABASE IF NOT EXISTS towpath; SYSTEM START LISTEN HTTP; SELECT sum(sleepEachRow(1)) FROM numbers(1000000)"
    " SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0, max_execution_time = 0"
)
_EVERYTHING = ["GRANT ALL ON *.*"]
_TO_LISTEN = ["GRANT SYSTEM LISTEN ON *.*", "GRANT CREATE DATABASE ON towpath.*"]
#: Seconds between two starts of a server that cannot keep running.
_PAUSE_SECONDS = 0.5


def users_file(passwords: dict[str, str], *, administrator: str) -> str:
    """The users of users.sql with their grants and profiles, and an administrator, in ClickHouse's format."""
    profiles = "<default/>"
    users = _user(administrator, passwords["administrator"], profile_name="default", grants=_EVERYTHING)
    # The statements of this process itself are the default user's, who has no password: it may do just that.
    users += _user("default", "", profile_name="default", grants=_TO_LISTEN, address="127.0.0.1")
    for short in SHORT_NAMES:
        name = f"towpath_{short}"
        settings = "".join(f"<{key}>{escape(value, quote=False)}</{key}>" for key, value in profile(name).items())
        if constants := "".join(f"<{key}><const/></{key}>" for key in fixed(name)):
            settings += f"<constraints>{constants}</constraints>"
        profiles += f"<{name}>{settings}</{name}>"
        users += _user(name, passwords[short], profile_name=name, grants=grants(name))
    return f"""<clickhouse>
<profiles>{profiles}</profiles>
<quotas><default/></quotas>
<users>{users}</users>
</clickhouse>"""


def _user(name: str, password: str, *, profile_name: str, grants: list[str], address: str = "::/0") -> str:
    digest = hashlib.sha256(password.encode()).hexdigest()
    queries = "".join(f"<query>{escape(grant, quote=False)}</query>" for grant in grants)
    return (
        f"<{name}><password_sha256_hex>{digest}</password_sha256_hex><networks><ip>{address}</ip></networks>"
        f"<profile>{profile_name}</profile><quota>default</quota><grants>{queries}</grants></{name}>"
    )


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--serve", action="store_true", help="be the server itself, not its supervisor")
    options = parser.parse_args()
    if options.serve:
        _serve(options)
    else:
        _supervise(options)


def _supervise(options: argparse.Namespace) -> None:
    options.data.mkdir(parents=True, exist_ok=True)
    environment = os.environ
    passwords = {short: environment[f"CLICKHOUSE_{short.upper()}_PASSWORD"] for short in SHORT_NAMES}
    passwords["administrator"] = environment["CLICKHOUSE_PASSWORD"]
    users, config = options.data / "users.xml", options.data / "config.xml"
    users.write_text(users_file(passwords, administrator=environment["CLICKHOUSE_USER"]))
    # It asks for grants of table engines, which is not the default; the engine inside a process never does.
    config.write_text(
        f"<clickhouse><keep_alive_timeout>10</keep_alive_timeout><users_config>{users}</users_config>"
        "<access_control_improvements><table_engines_require_grant>true</table_engines_require_grant>"
        "</access_control_improvements></clickhouse>"
    )
    child: subprocess.Popen[bytes] | None = None

    def stop(_number: int, _frame: FrameType | None) -> None:
        if child is not None:
            child.kill()
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    command = ["setpriv", "--pdeathsig=KILL", "--", sys.executable, "-m", __spec__.name, *sys.argv[1:], "--serve"]
    while True:
        child = subprocess.Popen(command)
        code = child.wait()
        sys.stderr.write(f"the server has ended with {code}: it is started again\n")
        sys.stderr.flush()
        time.sleep(_PAUSE_SECONDS)


def _serve(options: argparse.Namespace) -> None:
    os.environ["TZ"] = "UTC"
    words = [
        "clickhouse",
        f"--config-file={options.data / 'config.xml'}",
        f"--path={options.data / 'store'}",
        f"--http_port={options.port}",
        f"--listen_host={options.host}",
        f"--query={_FOR_EVER}",
    ]
    arguments = (ctypes.c_char_p * len(words))(*[word.encode() for word in words])
    query = ctypes.CDLL(str(options.library)).chdb_query_cmdline
    query.restype = ctypes.c_void_p
    query(len(words), arguments)


if __name__ == "__main__":
    main()

"""The local ClickHouse endpoint with the rights and limits that users.sql gives to one user.

chDB has a single session user and no storage for others, but it takes a file of users: there, its user gets the grants
and the profile of the one asked for, word by word, and the engine enforces them.

    python -m tests.deploy.clickhouse_as_user --user towpath_writer --data DIR --port N

`--set` adds to the user's profile, `--fix` and `--most` limit the right to change a setting. `--filter` is a row policy
on event_log in the database `towpath`, and the user `administrator` may do everything.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from xml.sax.saxutils import escape

# chDB would import it, which takes as long as the engine itself, for a format that nobody here asks for.
sys.modules.setdefault("pyarrow", None)  # type: ignore[arg-type]

from deploy.clickhouse.users import bounds, fixed, grants, profile  # noqa: E402
from deploy.local.clickhouse_server import Server  # noqa: E402


def main() -> None:
    """Serve one data folder on one port, as one user, until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--user", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--fix", action="append", default=[], metavar="NAME")
    parser.add_argument("--most", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--filter", default="")
    options = parser.parse_args()
    os.environ["TZ"] = "UTC"
    options.data.mkdir(parents=True, exist_ok=True)
    users = options.data.with_suffix(".users.xml")
    config = options.data.with_suffix(".config.xml")
    users.write_text(_users_file(options))
    config.write_text(f"<clickhouse><users_config>{users}</users_config></clickhouse>")
    server = Server(
        data=Path(f"{options.data}?config-file={config}"), host="127.0.0.1", port=options.port, password=None
    )
    server.run()
    os._exit(0)


def _users_file(options: argparse.Namespace) -> str:
    set_here = dict(one.split("=", 1) for one in options.set)
    chosen = {**profile(options.user), **set_here}
    settings = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in chosen.items())
    constraints = "".join(f"<{name}><const/></{name}>" for name in (*fixed(options.user), *options.fix))
    for name, (least, most) in bounds(options.user).items():
        constraints += f"<{name}><min>{least}</min><max>{most}</max></{name}>"
    for name, value in (one.split("=", 1) for one in options.most):
        constraints += f"<{name}><max>{escape(value)}</max></{name}>"
    rows = f"<event_log><filter>{escape(options.filter)}</filter></event_log>" if options.filter else ""
    # The endpoint changes databases by USE, which asks for a right; a server's HTTP interface does not.
    allowed = [*grants(options.user), "GRANT SHOW DATABASES ON default.*"]
    if options.user == "administrator":
        allowed = ["GRANT ALL ON *.*"]
    queries = "".join(f"<query>{escape(grant)}</query>" for grant in allowed)
    return f"""<clickhouse>
<profiles><default>{settings}<constraints>{constraints}</constraints></default></profiles>
<quotas><default/></quotas>
<users><default>
<password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
<grants>{queries}</grants>
<databases><towpath>{rows}</towpath></databases>
</default></users>
</clickhouse>"""


if __name__ == "__main__":
    main()

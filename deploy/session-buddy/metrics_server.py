"""Session-Buddy's RealTimeMetricsServer as a process of its own.

    metrics_server.py serve [--host H] [--port P] [--database FILE] [--interval SECONDS]
    metrics_server.py check [--port P]      exit 0 if the server sends a snapshot, for a health check
    metrics_server.py token                 print a token for a client, signed with SESSION_BUDDY_JWT_SECRET
    metrics_server.py sample [--count N] [--skills N]
                                            store simulated invocations in the database

Clients need a token if the package's own switch is on: SESSION_BUDDY_AUTH_ENABLED=true. The secret must then be one of your own,
since the package falls back to a public one. SESSION_BUDDY_JWT_SECRET_FILE names a file with it, such as a secret of a container.
"""

import argparse
import asyncio
import base64
import fcntl
import hashlib
import hmac
import json
import os
import pathlib
import signal
import sys
import time

SECRET_VARIABLE = "SESSION_BUDDY_JWT_SECRET"
SECRET_FILE_VARIABLE = "SESSION_BUDDY_JWT_SECRET_FILE"
AUTH_VARIABLE = "SESSION_BUDDY_AUTH_ENABLED"
# What session_buddy/realtime/auth.py falls back to.
PUBLIC_SECRET = "dev-secret-change-in-production"


def refuse(problem):
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def is_auth_enabled():
    """Whether clients need a token, as the package sees it: it takes every value but "true" for no."""
    value = os.environ.get(AUTH_VARIABLE, "").lower()
    if value not in ("", "true", "false"):
        refuse(f"{AUTH_VARIABLE}={value!r} would leave the server open: write true or false")
    return value == "true"


def read_secret_file():
    """Set the variable that the package reads from the file, if one is given. The end of its last line is not a part of the secret."""
    path = os.environ.get(SECRET_FILE_VARIABLE, "")
    if not path:
        return
    if os.environ.get(SECRET_VARIABLE):
        refuse(f"{SECRET_VARIABLE} and {SECRET_FILE_VARIABLE} are both set: unset one of them")
    try:
        os.environ[SECRET_VARIABLE] = pathlib.Path(path).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{SECRET_FILE_VARIABLE} cannot be read: {error}")


def secret():
    """The secret that tokens are signed with. A missing one is refused, and so is the one that everybody knows."""
    value = os.environ.get(SECRET_VARIABLE, "")
    if value.strip() in ("", PUBLIC_SECRET):
        refuse(f"{SECRET_VARIABLE} is empty or the package's public default: set the output of openssl rand -hex 32")
    return value


def migrate(database):
    """Bring the database to the package's schema; the server reads it and never makes it.

    Two migrations of one database at the same time spoil it: the directory is locked, so that they run one after the other.
    """
    from session_buddy.storage.migrations import get_migration_manager

    database.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(database.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        get_migration_manager(db_path=database).migrate()
    finally:
        os.close(directory)


async def serve(host, port, database, interval_seconds):
    if is_auth_enabled():
        secret()
    from session_buddy.realtime.websocket_server import RealTimeMetricsServer

    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    migrate(database)
    # require_auth alone switches nothing on: the package also wants SESSION_BUDDY_AUTH_ENABLED, which so decides alone.
    server = RealTimeMetricsServer(
        host=host, port=port, db_path=database, update_interval=interval_seconds, require_auth=True
    )
    async with server:
        print("ready", server._server.sockets[0].getsockname()[1], flush=True)
        await stopping.wait()


def check(port, timeout_seconds=5):
    """Return once a snapshot has come: a server that cannot read its database accepts connections and sends none."""
    from websockets.sync.client import connect

    # Before it connects: the server waits for the token for five seconds.
    greeting = json.dumps({"token": token("health-check")}) if is_auth_enabled() else None
    with connect(f"ws://127.0.0.1:{port}", open_timeout=timeout_seconds) as feed:
        if greeting is not None:
            feed.send(greeting)
        while json.loads(feed.recv(timeout=timeout_seconds))["type"] != "metrics_update":
            pass


def token(user_id):
    """A token as the package's generate_token makes it (HS256, RFC 7515). Importing the package for it takes seconds."""
    lifetime_seconds = int(os.environ.get("SESSION_BUDDY_TOKEN_EXPIRY", "3600"))
    now = int(time.time())
    claims = {"user_id": user_id, "permissions": ["session-buddy:read"], "iat": now, "exp": now + lifetime_seconds}
    signed = ".".join(encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{signed}.{encode(hmac.digest(secret().encode(), signed.encode(), hashlib.sha256))}"


SAMPLE_SKILLS = ["pytest-run", "ruff-check", "code-review", "commit-message"]


def sample(database, count, skills):
    """Store `count` invocations as Session-Buddy stores them: the skills take turns, and every fifth is not completed."""
    from datetime import datetime, timezone

    from session_buddy.storage.skills_storage import SkillsStorage

    if skills < 1:
        refuse(f"--skills {skills} is not a number from 1 on")
    names = SAMPLE_SKILLS[:skills] + [f"skill-{number}" for number in range(len(SAMPLE_SKILLS) + 1, skills + 1)]
    migrate(database)
    with SkillsStorage(db_path=database) as storage:
        for number in range(count):
            storage.store_invocation(
                skill_name=names[number % len(names)],
                invoked_at=datetime.now(timezone.utc).isoformat(),
                session_id="sample",
                completed=number % 5 != 0,
                duration_seconds=0.5 + number % 7,
                workflow_phase="execution",
            )
    print(f"stored {count} invocations of {min(count, len(names))} skills")


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("--host", default="localhost")
    serving.add_argument("--port", type=int, default=8765, help="0 takes a free one; the line 'ready PORT' names it")
    serving.add_argument("--database", type=pathlib.Path, default=pathlib.Path(".session-buddy/skills.db"))
    serving.add_argument("--interval", type=float, default=1.0, help="seconds between two snapshots")
    commands.add_parser("check").add_argument("--port", type=int, default=8765)
    commands.add_parser("token").add_argument("--user", default="session-buddy-bridge")
    sampling = commands.add_parser("sample")
    sampling.add_argument("--count", type=int, default=100)
    sampling.add_argument("--skills", type=int, default=len(SAMPLE_SKILLS), help="at least 1")
    sampling.add_argument("--database", type=pathlib.Path, default=pathlib.Path("/var/lib/session-buddy/skills.db"))
    args = parser.parse_args(argv)
    read_secret_file()
    if args.command == "serve":
        asyncio.run(serve(args.host, args.port, args.database, args.interval))
    elif args.command == "check":
        check(args.port)
    elif args.command == "sample":
        sample(args.database, args.count, args.skills)
    else:
        print(token(args.user))


if __name__ == "__main__":
    main()

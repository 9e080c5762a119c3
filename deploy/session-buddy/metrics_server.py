"""Session-Buddy's RealTimeMetricsServer as a process of its own.

    metrics_server.py serve [--host H] [--port P] [--database FILE] [--interval SECONDS]
    metrics_server.py check [--port P]      exit 0 if the server sends a snapshot, for a health check
    metrics_server.py token                 print a token for a client, signed with SESSION_BUDDY_JWT_SECRET

Clients must bring a token if the package's own switch says so: SESSION_BUDDY_AUTH_ENABLED=true.
"""

import argparse
import asyncio
import json
import os
import pathlib
import signal


def migrate(database):
    """Bring the database to the package's schema; the server reads it and never makes it."""
    from session_buddy.storage.migrations import get_migration_manager

    database.parent.mkdir(parents=True, exist_ok=True)
    get_migration_manager(db_path=database).migrate()


async def serve(host, port, database, interval_seconds):
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

    with connect(f"ws://127.0.0.1:{port}", open_timeout=timeout_seconds) as feed:
        if os.environ.get("SESSION_BUDDY_AUTH_ENABLED", "").lower() == "true":
            feed.send(json.dumps({"token": token("health-check")}))
        while json.loads(feed.recv(timeout=timeout_seconds))["type"] != "metrics_update":
            pass


def token(user_id):
    from session_buddy.realtime.auth import generate_token

    return generate_token(user_id)


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
    args = parser.parse_args(argv)
    if args.command == "serve":
        asyncio.run(serve(args.host, args.port, args.database, args.interval))
    elif args.command == "check":
        check(args.port)
    else:
        print(token(args.user))


if __name__ == "__main__":
    main()

"""Run ``alembic upgrade head`` in several processes at the same moment; prints their exit codes.

    python upgrade_at_once.py alembic.ini 8

The processes are forked from one that has imported everything, so that they meet at the database, not at the disk.
"""

from __future__ import annotations

import os
import sys

from alembic.config import main

from agent_persistence import migrate


def upgrade(ini: str, starting_gun: int) -> int:
    os.read(starting_gun, 1)
    try:
        main(["-c", ini, "upgrade", "head"])
    except SystemExit as end:
        return 1 if end.code else 0
    return 0


def start(ini: str, starting_gun: int, trigger: int) -> int:
    pid = os.fork()
    if pid == 0:
        os.close(trigger)
        os._exit(upgrade(ini, starting_gun))
    return pid


if __name__ == "__main__":
    assert migrate  # imported for the children
    starting_gun, trigger = os.pipe()
    pids = [start(sys.argv[1], starting_gun, trigger) for _ in range(int(sys.argv[2]))]
    os.close(trigger)  # the end of the pipe wakes them all
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])

"""Runs a command as an ordinary user when it is root that asks: `python unprivileged.py DIRECTORY COMMAND…`

PostgreSQL refuses to run as root. A user namespace with one ordinary user in it needs no such user outside, and files
stay root's; where the kernel or a container's seccomp filter refuses one, an unused numeric user id does, which gets
DIRECTORY. It replaces itself by the command, so that whoever started it has the command as its child. Standard library
only.
"""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
USER_INSIDE = 1000
USER_OUTSIDE = 54320


def main() -> None:
    directory, *command = sys.argv[1:]
    if os.geteuid() == 0:
        give(Path(directory), 0)
        if not enter_user_namespace():
            give(Path(directory), USER_OUTSIDE)
            os.setgroups([])
            os.setgid(USER_OUTSIDE)
            os.setuid(USER_OUTSIDE)
            if not os.access(command[0], os.X_OK):
                sys.exit(
                    f"cannot run {command[0]} as the ordinary user {USER_OUTSIDE}, and as root PostgreSQL does not run:"
                    " a folder above it is closed to others. Be an ordinary user, or open that folder (chmod o+x)."
                )
    os.execv(command[0], command)


def enter_user_namespace() -> bool:
    user, group = os.geteuid(), os.getegid()
    try:
        # os.unshare exists since Python 3.12, and Linux only; the namespace needs a process of one thread, as this is.
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{USER_INSIDE} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{USER_INSIDE} {group} 1")
    except (AttributeError, OSError):
        return False
    return True


def can_enter_user_namespace() -> bool:
    """Tried in a child, as there is no way back out of one."""
    child = os.fork()
    if child == 0:
        os._exit(0 if enter_user_namespace() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def give(directory: Path, user: int) -> None:
    """Changes the owner of all in the directory, unless it is so already."""
    if directory.stat().st_uid == user:
        return
    for path in sorted(directory.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)
    # The directory itself last: it is what tells the next start that all is done.
    os.chown(directory, user, user)


if __name__ == "__main__":
    main()

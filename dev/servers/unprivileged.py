"""Runs a command as an ordinary user when it is root that asks: `python unprivileged.py DIRECTORY COMMAND…`

PostgreSQL refuses to run as root. In a user namespace root can be somebody else, and the files stay root's; where the
kernel or a container's seccomp filter refuses one, it has to be somebody else in earnest, who gets DIRECTORY. It
replaces itself by the command, so that whoever started it has the command as its child. Standard library only.
"""

import ctypes
import os
import pwd
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000


def main() -> None:
    directory, *command = sys.argv[1:]
    if os.geteuid() == 0:
        somebody = ordinary_user()
        give(Path(directory), 0, 0)
        if not enter_user_namespace(somebody):
            give(Path(directory), somebody.pw_uid, somebody.pw_gid)
            os.setgroups([])
            os.setgid(somebody.pw_gid)
            os.setuid(somebody.pw_uid)
            if not os.access(command[0], os.X_OK):
                sys.exit(
                    f"cannot run {command[0]} as {somebody.pw_name}, and as root PostgreSQL does not run: a folder"
                    " above it is closed to others. Be an ordinary user, or open that folder (chmod o+x)."
                )
    os.execv(command[0], command)


def ordinary_user() -> pwd.struct_passwd:
    """One that is listed: initdb looks its own name up."""
    users = [user for user in pwd.getpwall() if user.pw_uid != 0]
    return next((user for user in users if user.pw_name == "nobody"), users[0])


def enter_user_namespace(somebody: pwd.struct_passwd) -> bool:
    user, group = os.geteuid(), os.getegid()
    try:
        # os.unshare exists since Python 3.12, and Linux only; the namespace needs a process of one thread, as this is.
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{somebody.pw_uid} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{somebody.pw_gid} {group} 1")
    except (AttributeError, OSError):
        return False
    return True


def can_enter_user_namespace() -> bool:
    """Tried in a child, as there is no way back out of one."""
    child = os.fork()
    if child == 0:
        os._exit(0 if enter_user_namespace(ordinary_user()) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def give(directory: Path, user: int, group: int) -> None:
    """Changes the owner of all in the directory, unless it is so already."""
    if directory.stat().st_uid == user:
        return
    for path in sorted(directory.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
    # The directory itself last: it is what tells the next start that all is done.
    os.chown(directory, user, group)


if __name__ == "__main__":
    main()

"""Runs PostgreSQL as an ordinary user with a name: `python unprivileged.py DIRECTORY COMMAND…`

It refuses to run as root, and initdb refuses a user without a name, as containers often have.

In a user namespace root can be another user, and the files stay root's. Where the kernel or a container's seccomp
filter refuses a namespace, the process becomes that user for good, and so does the owner of DIRECTORY. The command then
replaces this process, so that it is the child of whoever started it. Standard library only.
"""

import ctypes
import os
import pwd
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000


def as_ordinary_user(directory: Path, command: list[str]) -> list[str]:
    """The command as it is for an ordinary user, and run through this file for root and for a user without a name."""
    if os.geteuid() != 0 and has_name():
        return command
    return [sys.executable, "-I", __file__, str(directory), *command]


def has_name() -> bool:
    try:
        return bool(pwd.getpwuid(os.geteuid()))
    except KeyError:
        return False


def main() -> None:
    directory, *command = sys.argv[1:]
    if os.geteuid() == 0:
        user = ordinary_user()
        give(Path(directory), 0, 0)
        if not enter_user_namespace(user):
            give(Path(directory), user.pw_uid, user.pw_gid)
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            if not os.access(command[0], os.X_OK):
                sys.exit(
                    f"postgres: {user.pw_name} cannot run {command[0]}: a folder above it is closed to others, and"
                    " PostgreSQL does not run as root; run as an ordinary user, or open that folder (chmod o+x)"
                )
    elif not enter_user_namespace(ordinary_user()) and Path(command[0]).name == "initdb":
        sys.exit(
            f"postgres: the user with the number {os.geteuid()} has no name, and initdb needs one; "
            "add it to /etc/passwd, or run as another user"
        )
    os.execv(command[0], command)


def ordinary_user() -> pwd.struct_passwd:
    """A user with an entry in the user database, since initdb looks its own name up."""
    users = [user for user in pwd.getpwall() if user.pw_uid != 0]
    return next((user for user in users if user.pw_name == "nobody"), users[0])


def enter_user_namespace(user: pwd.struct_passwd) -> bool:
    root, group = os.geteuid(), os.getegid()
    try:
        # Python has os.unshare since 3.12 only. Only a process with a single thread can enter a namespace.
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user.pw_uid} {root} 1")
        Path("/proc/self/gid_map").write_text(f"{user.pw_gid} {group} 1")
    except (AttributeError, OSError):
        return False
    return True


def give(directory: Path, user: int, group: int) -> None:
    """Change the owner of everything in the directory, unless it is changed already."""
    if directory.stat().st_uid == user:
        return
    for path in sorted(directory.rglob("*")):
        os.chown(path, user, group, follow_symlinks=False)
    # The directory itself comes last: its owner tells the next start that all is done.
    os.chown(directory, user, group)


if __name__ == "__main__":
    main()

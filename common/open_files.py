"""The number of files that a process may open, which bounds its connections too."""

import resource


def raise_limit(wanted: int) -> int:
    """Raise the soft limit of this process and its children towards `wanted`, as far as the hard limit allows. It is
    never lowered. Returns the limit now; `wanted` if there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft >= target:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return target

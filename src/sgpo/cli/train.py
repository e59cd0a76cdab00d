"""The command `sgpo train`."""


def train(argv: list[str]) -> int:
    """Runs the command. Returns its exit code."""
    from sgpo.leader.script import train as run

    return run(argv)

"""The command `sgpo train`."""


def train(argv: list[str]) -> int:
    """Runs the command. Returns 0."""
    from sgpo.leader.script import train as train_leader

    train_leader(argv)
    return 0

"""The commands as a whole: what `sgpo --help` lists exists and explains itself; anything else is refused."""

import re

import pytest

from sgpo.cli import main

KINDS = ("alpaca", "mt-bench", "judge", "reward", "preferences")


def printed(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    shown = capsys.readouterr()
    return ended.value.code, shown.out + shown.err


def test_every_command_explains_each_of_its_arguments(capsys):
    code, listed = printed(capsys, "--help")
    names = re.findall(r"^    ([a-z-]+)\s", listed, flags=re.MULTILINE)
    assert (code, names) == (0, ["run", "train", "eval", "split", "worst-case", "report"])
    # The arguments of `sgpo train` are TRL's; tests/leader/test_script.py reads its help.
    commands = [[name] for name in names if name != "train"] + [["eval", kind] for kind in KINDS]
    for command in commands:
        code, help_ = printed(capsys, *command, "--help")
        assert (code, help_.split(" [")[0]) == (0, " ".join(["usage: sgpo", *command])), command
        lines = help_.splitlines()
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("  -"):
                assert "  " in line.strip() or following.startswith(" " * 10), (command, line)
        assert "PydanticUndefined" not in help_, command


@pytest.mark.parametrize("arguments", [[], ["evaluate"], ["--", "run"], ["--keys"]])
def test_what_is_not_a_command_is_refused_with_the_usage(capsys, arguments):
    code, said = printed(capsys, *arguments)
    assert (code, said.split(" [")[0]) == (2, "usage: sgpo")

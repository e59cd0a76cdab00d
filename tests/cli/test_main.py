"""The commands as a whole: what `sgpo --help` lists exists and explains itself; anything else is refused."""

import re
import subprocess
import sys

import numpy as np
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


@pytest.mark.parametrize("reads", [0, 10], ids=["nothing", "the beginning"])
def test_a_reader_that_is_gone_ends_a_command_without_a_traceback(tmp_path, reads):
    """As `| head` and `| true` do."""
    np.save(tmp_path / "gaps.npy", np.linspace(-1, 1, 20_000))
    command = [sys.executable, "-m", "sgpo", "worst-case", str(tmp_path / "gaps.npy"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert len(process.stdout.read(reads)) == reads
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_another_pipe_that_breaks_is_an_error_of_the_command(monkeypatch, tmp_path):
    def broken(argv):
        raise BrokenPipeError("the pipe of a subprocess")

    monkeypatch.setattr("sgpo.cli.worst_case.worst_case", broken)
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr("sys.stdout", file)
        with pytest.raises(BrokenPipeError, match="of a subprocess"):
            main(["worst-case"])


def test_the_help_of_flags_says_what_they_take(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for kind in KINDS:
        _, help_ = printed(capsys, "eval", kind, "--help")
        assert ("or a file of its answers" in help_) == (kind in ("judge", "reward")), kind
        assert "`judge` and `reward`" not in help_ or kind in ("judge", "reward")
        for flag in ("instructions", "questions", "prompts", "pairs", "baseline"):
            assert re.search(rf"--{flag} (?!PATH|NAME)", help_) is None, (kind, flag)
    _, usage = printed(capsys, "run", "--help")
    assert "[--config FILE]" in usage

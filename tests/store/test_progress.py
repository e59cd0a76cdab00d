"""What a run says: on a terminal, in a log file, and not at all."""

import io
import time
import warnings

from rich.console import Console

from sgpo.store.progress import Reporter


class Alert(UserWarning):
    pass


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=80)


def test_a_log_file_has_a_line_as_soon_as_a_stage_starts_one_when_it_is_done_and_no_bars(tmp_path):
    path = tmp_path / "log"
    with path.open("w") as file:
        reporter = Reporter(Console(file=file, width=80))
        with reporter.stage("round-1/pairs"), reporter.bar("scoring", 10) as advance:
            assert path.read_text() == "  … round-1/pairs\n"
            advance(10)
        started, done = path.read_text().splitlines()
    assert "round-1/pairs" in started
    assert done.startswith("  ✓ round-1/pairs") and done.endswith(" s")


def test_a_terminal_sees_how_far_a_stage_is():
    screen = console(terminal=True)
    reporter = Reporter(screen)
    with reporter.stage("round-1/pairs"), reporter.bar("scoring", 10) as advance:
        advance(4)
        time.sleep(0.4)  # bars are drawn ten times a second
    assert "4/10" in screen.file.getvalue()
    assert "…" not in screen.file.getvalue()


def test_without_a_console_nothing_is_said(capfd):
    reporter = Reporter()
    with reporter.stage("round-1/pairs"), reporter.bar("scoring", 10) as advance:
        advance(10)
    reporter.say("nobody hears this")
    assert capfd.readouterr() == ("", "")


def test_alerts_become_lines_and_other_warnings_stay_what_they_are():
    log = console(terminal=False)
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with Reporter(log).showing(Alert):
            warnings.warn("the policy [old] collapses", Alert, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert "the policy [old] collapses" in log.file.getvalue()
    assert [str(warning.message) for warning in others] == ["something else"]

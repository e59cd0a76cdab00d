import pytest

from report.fake_run import FakeRun


@pytest.fixture
def run(tmp_path):
    """A finished run, not yet written: change it, then call write()."""
    return FakeRun(tmp_path / "runs" / "fake")

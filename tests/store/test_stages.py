"""Stages are divided, done once, and the same however many processes there are."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch
from datasets import Features, Value, load_from_disk
from pydantic import BaseModel

from sgpo.errors import InputError
from sgpo.store.progress import Reporter
from sgpo.store.run_dir import RunDir
from sgpo.store.stages import ShardWork, Stages

FEATURES = Features({"item": Value("int64"), "drawn": Value("float64")})
SEED = 5
STAGE = "round-1/responses"


class Recipe(BaseModel):
    seed: int = SEED


class Team:
    """Threads in the place of processes: what they broadcast and where they wait, and no more."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=20)
        self._value = None

    def members(self) -> list["Member"]:
        return [Member(self, rank) for rank in range(self.count)]

    def run(self, work: Callable[["Member"], None]) -> list[BaseException]:
        """Has every member do its work at once; what they raised."""
        raised = []

        def call(member):
            try:
                work(member)
            except BaseException as error:
                self._barrier.abort()
                if not isinstance(error, threading.BrokenBarrierError):
                    raised.append(error)

        threads = [threading.Thread(target=call, args=(member,)) for member in self.members()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised


class Member:
    def __init__(self, team: Team, rank: int) -> None:
        self._team, self.rank, self.count = team, rank, team.count

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        self._team._barrier.wait()

    def from_main(self, value):
        if self.is_main:
            self._team._value = value
        self.wait()
        value = self._team._value
        self.wait()
        return value


class Job:
    """A sharded stage that counts what is asked of it."""

    def __init__(self, root, *, fail_at: int | None = None) -> None:
        self.root, self.fail_at = root, fail_at
        self.spans: list[tuple[int, range]] = []
        self.opened: list[int] = []
        self._lock = threading.Lock()

    def member(self, member: Member, count: int, size: int, **more) -> None:
        run = RunDir(self.root, Recipe(), [], writer=member.is_main)
        try:
            Stages(run, SEED, member, Reporter()).sharded(
                STAGE, count, size=size, features=FEATURES, open_work=lambda: self._open(member.rank), **more
            )
        finally:
            run.close()

    @contextmanager
    def _open(self, rank: int):
        self.opened.append(rank)

        def do(span, advance):
            with self._lock:
                self.spans.append((rank, span))
            if self.fail_at in span:
                raise OSError("the middle of a shard")
            advance(len(span))
            return {"item": list(span), "drawn": [item / 7 for item in span]}, {"done": len(span), "lost": 0}

        yield ShardWork(do, {"model": "abc"})


class Draws(Job):
    """Its shards are numbers of the random state that they find."""

    def __init__(self, root) -> None:
        super().__init__(root)
        self.drawn: dict[int, float] = {}

    @contextmanager
    def _open(self, rank: int):
        def do(span, advance):
            self.drawn[span.start] = float(torch.rand(()))
            return {"item": list(span), "drawn": [self.drawn[span.start]] * len(span)}, {}

        yield ShardWork(do, {})


@contextmanager
def broken_merge():
    """All shards are written, and then something breaks."""

    def fail(*_):
        raise OSError("the merge")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgpo.store.stages.Shards.read", fail)
        yield


def entry(root):
    return json.loads((root / "manifest.json").read_text())["stages"][STAGE]


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_shard_is_done_once_and_the_dataset_does_not_depend_on_the_processes(tmp_path, processes):
    job = Job(tmp_path / "run")
    assert Team(processes).run(lambda member: job.member(member, 11, 2)) == []
    assert sorted(span.start for _, span in job.spans) == [0, 2, 4, 6, 8, 10]
    assert {rank: sum(one == rank for one, _ in job.spans) for rank in range(processes)} == {
        rank: len(range(rank, 6, processes)) for rank in range(processes)
    }
    rows = load_from_disk(tmp_path / "run" / STAGE)
    assert rows["item"][:] == list(range(11))
    assert rows["drawn"][:] == [item / 7 for item in range(11)]


def test_the_manifest_counts_rows_shards_and_notes(tmp_path):
    job = Job(tmp_path / "run")
    assert Team(2).run(lambda member: job.member(member, 11, 2)) == []
    recorded = entry(tmp_path / "run")
    assert {key: recorded[key] for key in ("rows", "shards", "done", "lost")} == {
        "rows": 11,
        "shards": 6,
        "done": 11,
        "lost": 0,
    }
    about = json.loads((tmp_path / "run" / STAGE / "about.json").read_text())
    assert about == {"model": "abc", "done": 11, "lost": 0}


@pytest.mark.parametrize("again", [1, 2])
def test_after_a_failure_only_the_missing_shards_are_done(tmp_path, again):
    root = tmp_path / "run"
    first = Job(root, fail_at=7)
    assert [str(error) for error in Team(1).run(lambda member: first.member(member, 11, 2))] == [
        "the middle of a shard"
    ]
    assert not (root / STAGE).exists()
    kept = {path: path.stat().st_ino for path in (root / "round-1/.responses.shards").glob("*.arrow")}
    assert [path.name for path in sorted(kept)] == ["00000.arrow", "00001.arrow", "00002.arrow"]
    second = Job(root)
    assert Team(again).run(lambda member: second.member(member, 11, 2)) == []
    assert sorted(span.start for _, span in second.spans) == [6, 8, 10]
    assert load_from_disk(root / STAGE)["item"][:] == list(range(11))
    assert entry(root)["rows"] == 11
    assert entry(root)["done"] == 11
    assert not list(root.rglob(".*.shards"))


def test_a_failure_of_one_process_keeps_the_shards_of_the_other(tmp_path):
    root = tmp_path / "run"
    job = Job(root, fail_at=2)  # in the second shard, the first of process 1
    assert len(Team(2).run(lambda member: job.member(member, 8, 2))) == 1
    assert not (root / STAGE).exists()
    second = Job(root)
    assert Team(2).run(lambda member: second.member(member, 8, 2)) == []
    assert {span.start for _, span in second.spans} == {0, 2, 4, 6} - {
        span.start for rank, span in job.spans if rank == 0
    }
    assert load_from_disk(root / STAGE)["item"][:] == list(range(8))


def test_a_whole_stage_is_not_opened_again(tmp_path):
    root = tmp_path / "run"
    assert Team(1).run(lambda member: Job(root).member(member, 4, 2)) == []
    again = Job(root)
    assert Team(2).run(lambda member: again.member(member, 4, 2)) == []
    assert again.opened == []


def test_shards_that_only_have_to_be_merged_open_nothing(tmp_path):
    """Killed after the last shard: nothing is loaded or asked again."""
    root, first = tmp_path / "run", Job(tmp_path / "run")
    with broken_merge():
        assert len(Team(1).run(lambda member: first.member(member, 4, 2))) == 1
    again = Job(root)
    assert Team(2).run(lambda member: again.member(member, 4, 2)) == []
    assert again.opened == []
    assert load_from_disk(root / STAGE)["item"][:] == list(range(4))


def test_work_of_the_main_process_alone_is_opened_by_no_other(tmp_path):
    job = Job(tmp_path / "run")
    assert Team(3).run(lambda member: job.member(member, 5, 2, main_only=True)) == []
    assert job.opened == [0]
    assert [rank for rank, _ in job.spans] == [0, 0, 0]
    assert load_from_disk(tmp_path / "run" / STAGE)["item"][:] == list(range(5))


def test_a_shard_that_is_repeated_alone_draws_what_it_drew_among_the_others(tmp_path):
    root, first, again = tmp_path / "run", Draws(tmp_path / "run"), Draws(tmp_path / "run")
    with broken_merge():
        assert len(Team(1).run(lambda member: first.member(member, 6, 2))) == 1
    (root / "round-1/.responses.shards/00001.arrow").unlink()
    assert Team(1).run(lambda member: again.member(member, 6, 2)) == []
    assert again.drawn == {2: first.drawn[2]}
    assert len(set(first.drawn.values())) == 3


@pytest.mark.parametrize(("count", "size"), [(0, 2), (3, 0), (-1, 2)])
def test_nothing_to_do_is_refused_rather_than_made_an_empty_dataset(tmp_path, count, size):
    job = Job(tmp_path / "run")
    raised = Team(1).run(lambda member: job.member(member, count, size))
    assert len(raised) == 1
    assert isinstance(raised[0], InputError)
    assert f"{STAGE}: {count} items in shards of {size}" in str(raised[0])
    assert not (tmp_path / "run" / STAGE).exists()


def test_a_stage_of_one_process_is_done_by_the_main_one_alone_while_the_others_wait(tmp_path):
    done = []

    def work(member):
        run = RunDir(tmp_path / "run", Recipe(), [], writer=member.is_main)
        stages = Stages(run, SEED, member, Reporter())
        stages.alone("seed/pairs", lambda path: (done.append(member.rank), path.write_text("x")))
        assert (tmp_path / "run/seed/pairs").read_text() == "x"
        run.close()

    assert Team(3).run(work) == []
    assert done == [0]


def test_a_stage_of_all_processes_is_done_by_all_and_recorded_once(tmp_path):
    done = []

    def work(member):
        run = RunDir(tmp_path / "run", Recipe(), [], writer=member.is_main)
        stages = Stages(run, SEED, member, Reporter())

        def train(path):
            done.append(member.rank)
            if member.is_main:
                path.write_text("weights")

        stages.together("round-1/policy", train)
        assert (tmp_path / "run/round-1/policy").read_text() == "weights"
        run.close()

    assert Team(2).run(work) == []
    assert sorted(done) == [0, 1]
    assert list(json.loads((tmp_path / "run/manifest.json").read_text())["stages"]) == ["round-1/policy"]


def test_seeds_follow_from_the_runs_seed_and_the_stages_name(tmp_path):
    run = RunDir(tmp_path / "run", Recipe(), [])
    members = [Stages(run, seed, member, Reporter()) for seed in (5, 6) for member in Team(2).members()]
    assert members[0].seed("a") == members[1].seed("a") < 2**31
    assert len({members[0].seed("a"), members[0].seed("b"), members[2].seed("a")}) == 3
    run.close()

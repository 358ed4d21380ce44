"""Which processes are training launchers, whose they are, and why they died."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.trainer import host_memory
from services.trainer.core import ends
from services.trainer.core.guarding import Mark, entry, is_launcher, ours
from services.trainer.core.launch import ENTRY, LAUNCHER
from services.trainer.host_memory import oom_kills

SCRIPT = "scripts/train_dynamics.py"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (["python", "-m", ENTRY], ENTRY),
        (["python", "-m", "torch.distributed.run", "--standalone", "-m", ENTRY], ENTRY),
        (["python", "-m", LAUNCHER, "--standalone", "-m", ENTRY], ENTRY),
        (["/venv/bin/python3.11", "-u", "-X", "dev", "-m", ENTRY], ENTRY),
        (["python", f"/home/me/{SCRIPT}", "--config", "x"], f"/home/me/{SCRIPT}"),
        (["python", "/venv/bin/torchrun", "--standalone", SCRIPT], SCRIPT),
        (["python", "/venv/bin/torchrun", "--nproc_per_node", "2", SCRIPT, "a.py"], SCRIPT),
        (["python", "/venv/bin/torchrun", "-r3", "--max_restarts=1", "--run-path", SCRIPT], SCRIPT),
        (["python", "/venv/bin/torchrun", "--nproc_per_node", "2", "-m", ENTRY], ENTRY),
        (["python", "-m", "torch.distributed.run", "tools/lint.py", SCRIPT], None),
        (["python", "/venv/bin/torchrun", "--standalone", "-m", "tools.profile", SCRIPT], None),
        (["python", "/venv/bin/torchrun", "--no_python", "bash", "compare.sh", SCRIPT], None),
        (["python", "/venv/bin/torchrun", "--standalone"], None),
        (["python", "/venv/bin/mytorchrun", SCRIPT], None),
        (["python-language-server", SCRIPT], None),
        (["python", "-m", "services.trainer.main"], None),
        (["vim", SCRIPT], None),
        (["grep", "-r", ENTRY], None),
        (["python", "-m", "mypy", SCRIPT], None),
        (["python", "train.py", SCRIPT], None),
        (["python", "-c", "pass", ENTRY], None),
        (["python", "-u"], None),
        ([ENTRY], None),
        ([], None),
    ],
)  # fmt: skip
def test_python_has_to_run_the_entry_point(line: list[str], word: str | None) -> None:
    assert entry(line) == word


@pytest.mark.parametrize(
    ("path", "launcher"),
    [
        (ENTRY, True),
        (f"/checkout/{SCRIPT}", True),
        (SCRIPT, True),
        ("/checkout/train_dynamics.py", False),
        ("/checkout/myscripts/train_dynamics.py", False),
        ("/checkout/scripts/train_dynamics_of_a_pendulum.py", False),
    ],
)
def test_a_script_of_the_right_name_elsewhere_is_no_launcher(path: str, launcher: bool) -> None:
    assert is_launcher(path) is launcher


@pytest.mark.parametrize(
    ("mark", "in_checkout", "may"),
    [
        ("this stack", False, True),
        ("this stack", True, True),
        ("another stack", True, False),
        ("unreadable", True, False),
        ("none", True, True),
        ("none", False, False),
    ],
)
def test_a_launcher_is_ours_by_its_mark_or_without_one_by_its_checkout(
    mark: Mark, in_checkout: bool, may: bool
) -> None:
    assert ours(same_user=True, mark=mark, in_checkout=in_checkout) is may


def test_a_launcher_of_another_user_is_never_ours() -> None:
    assert not ours(same_user=False, mark="this stack", in_checkout=True)


# --- ended by the kernel ----------------------------------------------------------------------------------

LOADER = "RuntimeError: DataLoader worker (pid 12) is killed by signal: Killed. "


@pytest.mark.parametrize(
    ("exit_code", "stderr", "death"),
    [
        (-9, "", "oom"),
        (1, "  exitcode  : -9 (pid: 4711)", "oom"),
        (1, LOADER, "oom"),
        (-15, "", "killed"),
        (1, "KeyError: 'video_tokenizer'", "failed"),
    ],
)
def test_who_was_killed_while_the_kernel_freed_memory_was_out_of_memory(
    exit_code: int, stderr: str, death: str
) -> None:
    assert ends.death(exit_code, stderr, oom_killed=True) == death


def test_a_data_loader_that_was_killed_for_another_reason_is_no_memory_problem() -> None:
    assert ends.death(1, LOADER) == "failed"


class Cgroups:
    """A hierarchy of control groups as the kernel shows it."""

    def __init__(self, root: Path) -> None:
        self.mount, self.membership = root / "cgroup", root / "membership"
        self.mount.mkdir()

    def counts(self, group: str, kills: int) -> None:
        (self.mount / group).mkdir(parents=True, exist_ok=True)
        text = f"low 0\nhigh 0\nmax 31\noom 7\noom_kill {kills}\noom_group_kill 0\n"
        (self.mount / group / "memory.events.local").write_text(text)

    def kills(self, membership: str) -> int | None:
        self.membership.write_text(membership)
        return oom_kills(self.mount, self.membership)


def test_the_group_of_this_process_counts(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path)
    cgroups.counts("user.slice/trainer.service", 3)
    assert cgroups.kills("0::/user.slice/trainer.service\n") == 3
    cgroups.counts("user.slice/trainer.service", 4)
    assert cgroups.kills("0::/user.slice/trainer.service\n") == 4


def test_a_group_without_the_memory_controller_is_counted_above(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path)
    cgroups.counts("user.slice", 2)
    (tmp_path / "cgroup/user.slice/session-3.scope").mkdir()
    assert cgroups.kills("0::/user.slice/session-3.scope\n") == 2


def test_a_container_counts_in_the_group_it_sees(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path)
    cgroups.counts("", 5)
    assert cgroups.kills("0::/\n") == 5
    assert cgroups.kills("0::/kubepods/pod12/seen-from-outside\n") == 5


@pytest.mark.parametrize("membership", ["", "0::/nowhere\n", "4:memory:/old\n1:cpu:/\n"])
def test_where_nothing_is_counted_nothing_is_told(tmp_path: Path, membership: str) -> None:
    assert Cgroups(tmp_path).kills(membership) is None


def test_another_system_has_no_control_groups(tmp_path: Path) -> None:
    assert oom_kills(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("before", "now", "more"), [(3, 4, True), (3, 3, False), (None, 4, False), (3, None, False)]
)
def test_only_a_count_that_rose_says_that_the_kernel_ended_someone(
    monkeypatch: pytest.MonkeyPatch, before: int | None, now: int | None, more: bool
) -> None:
    monkeypatch.setattr(host_memory, "oom_kills", lambda: now)
    assert host_memory.rose(before) is more


def test_what_another_group_below_counts_does_not_matter(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path)
    cgroups.counts("user.slice", 2)
    (tmp_path / "cgroup/user.slice/memory.events").write_text("oom_kill 9\n")
    assert cgroups.kills("0::/user.slice/session-3.scope\n") == 2

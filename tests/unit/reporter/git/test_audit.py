"""Which commits count, and that plain git says the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.reporter.core.git.evidence import Evidence
from services.reporter.core.git.question import MODES, Mode, question
from services.reporter.git.audit import audit
from tests.unit.reporter.git.repository import Repo, hashes, subjects


def asked(repo: Repo, mode: Mode = "strict", game: str = "zelda", year: int = 2025) -> Evidence:
    """The audit, held against plain git."""
    found = audit(repo.path, question(game, year, mode))
    assert found.problem is None
    assert repo.plain(found) == hashes(found) | set(found.left_out)
    assert not hashes(found) & set(found.left_out)
    return found


def test_strict_takes_changed_lines_of_training_inference_and_config_files(repo: Repo) -> None:
    repo.commit("a script", {"scripts/train_dynamics.py": "game = 'Zelda'\n"})
    repo.commit("a config", {"configs/deep/er/x.txt": "dataset: ZELDA\n"})
    repo.commit("inference", {"scripts/run_inference.py": "load(ZeldaDataset)\n"})
    repo.commit("a page about zelda", {"README.md": "zelda\n"})
    repo.commit("zelda in words only", {"configs/deep/er/x.txt": "dataset: ZELDA\nlr: 1\n"})
    repo.commit("taken out", {"configs/deep/er/x.txt": "lr: 1\n"})
    found = asked(repo)
    assert subjects(found) == {"a script", "a config", "inference", "taken out"}
    (removed,) = [commit for commit in found.commits if commit.subject == "taken out"]
    assert removed.files[0].shown == ("-dataset: ZELDA",)
    assert subjects(asked(repo, "wide")) == subjects(found) | {"zelda in words only"}


def test_wide_takes_the_message_any_path_and_any_line_beside_such_a_file(repo: Repo) -> None:
    repo.commit("for ZELDA", {"train.py": "1\n"})
    repo.commit("by path", {"train.py": "2\n", "docs/my-Zelda-notes/a": "x\n"})
    repo.commit("by line", {"train.py": "3\n", "README.md": "zelda\n"})
    repo.commit("nothing", {"train.py": "4\n"})
    repo.commit("zelda elsewhere", {"other.txt": "zelda\n"})
    found = {commit.subject: commit.where for commit in asked(repo, "wide").commits}
    assert found == {"for ZELDA": ("message",), "by path": ("path",), "by line": ("lines",)}
    assert subjects(asked(repo)) == set()


def test_a_pure_rename_changes_no_line_and_a_copy_changes_all_of_its(repo: Repo) -> None:
    text = "".join(f"line {number}\n" for number in range(30)) + "zelda\n"
    repo.commit("begin", {"configs/a.yaml": text})
    repo.git("mv", "configs/a.yaml", "configs/b.yaml")
    repo.commit("moved")
    repo.commit("copied", {"configs/c.yaml": text})
    assert subjects(asked(repo)) == {"begin", "copied"}


def test_a_merge_counts_by_what_differs_from_all_its_parents(repo: Repo) -> None:
    repo.commit("begin", {"configs/a.yaml": "zelda: 1\n", "configs/b.yaml": "x\n"})
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("side", {"configs/a.yaml": "zelda: 2\n"})
    repo.git("checkout", "-q", "main")
    repo.commit("unlike", {"configs/b.yaml": "y\n"})
    repo.git("merge", "-q", "--no-ff", "-m", "clean merge", "side")
    repo.git("checkout", "-q", "-b", "other", "HEAD~1")
    repo.commit("other", {"configs/a.yaml": "zelda: 3\n"})
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "-s", "ours", "--no-commit", "other")
    repo.commit("resolved", {"configs/a.yaml": "zelda: 4\n"})
    repo.git("checkout", "-q", "-b", "lost")
    repo.commit("dropped later", {"configs/a.yaml": "zelda: 5\n"})
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-s", "ours", "-m", "ours", "lost")
    found = asked(repo)
    assert subjects(found) == {"begin", "side", "other", "resolved", "dropped later"}
    (merge,) = [commit for commit in found.commits if commit.subject == "resolved"]
    assert set(merge.files[0].shown) >= {"++zelda: 4"}
    assert subjects(asked(repo, "current_paths")) == subjects(found)
    asked(repo, "wide")


def test_binary_files_have_no_lines_and_other_encodings_have(repo: Repo) -> None:
    repo.commit("binary", {"configs/a.bin": b"zelda\0\n"})
    repo.commit("latin", {"configs/a.txt": b"\xe9 ZELDA \xff\n"})
    repo.git("config", "i18n.commitEncoding", "ISO-8859-1")
    repo.write({"configs/b.txt": "zelda\r\nno end: zelda"})
    repo.git("add", "-A")
    repo.git("commit", "-q", "-F", "-", given=b"caf\xe9")
    found = asked(repo)
    assert subjects(found) == {"latin", "café"}
    (latin,) = [commit for commit in found.commits if commit.subject == "latin"]
    assert latin.files[0].shown == ("+\\xe9 ZELDA \\xff",)


NAMES = [
    "sp ace.yaml",
    "tab\t.yaml",
    "new\nline.yaml",
    'quote".yaml',
    "back\\slash.yaml",
    "é.yaml",
    "*.yaml",
    "-x.yaml",
]


def test_names_of_any_bytes_are_read(repo: Repo) -> None:
    repo.commit("begin", {f"configs/{name}": f"zelda {name!r}\n" for name in NAMES})
    path = str(repo.path).encode() + b"/configs/\xff\xfe.yaml"
    Path(path.decode(errors="surrogateescape")).write_text("zelda\n")
    repo.commit("latin name")
    repo.git("mv", "configs/new\nline.yaml", "configs/now\nzelda.yaml")
    repo.commit("moved")
    found = asked(repo)
    assert {file.path for commit in found.commits for file in commit.files} == {
        *(f"configs/{name}" for name in NAMES),
        "configs/\\xff\\xfe.yaml",
    }
    now = asked(repo, "current_paths")
    assert subjects(now) == {"begin", "latin name", "moved"}
    (moved,) = [commit for commit in now.commits if commit.subject == "moved"]
    assert (moved.files[0].path, moved.where) == ("configs/now\nzelda.yaml", ("path",))


def test_the_committers_date_in_utc_decides_the_year(repo: Repo) -> None:
    dates = {
        "last second before": ("2024-12-31T23:59:59 +0000", False),
        "first second": ("2025-01-01T00:00:00 +0000", True),
        "still the old year in the east": ("2025-01-01T09:00:00 +1400", False),
        "already the new year in the west": ("2024-12-31T20:00:00 -0800", True),
        "last second": ("2025-12-31T23:59:59 +0000", True),
        "still the old year in the west": ("2025-12-31T20:00:00 -0800", False),
        "first second after": ("2026-01-01T00:00:00 +0000", False),
        "before its parent": ("2025-02-02T00:00:00 +0000", True),
        "the beginning of time": ("@0 +0000", False),
        "far ahead": ("@4102444800 +0000", False),
        "written in another year": ("2025-03-03T00:00:00 +0530", True),
    }
    for number, (name, (date, _)) in enumerate(dates.items()):
        repo.commit(
            name, {"train.py": f"zelda {number}\n"}, date, GIT_AUTHOR_DATE="2019-01-01T00:00:00 +0000"
        )
    expected = {name for name, (_, counts) in dates.items() if counts}
    for mode in MODES:
        assert subjects(asked(repo, mode)) == expected
    assert subjects(asked(repo, year=1970)) == {"the beginning of time"}
    assert subjects(asked(repo, year=2100)) == {"far ahead"}


def test_pole_is_pole_position_and_counts_as_a_word(repo: Repo) -> None:
    texts = ["POLE_POSITION", "PolePosition", "pole-position", "pole", "(pole_frames)"]
    for text in [*texts, "tadpole", "poles apart"]:
        repo.commit(text, {"train.py": f"{text}\n"})
        repo.git("rm", "-q", "train.py")
        repo.commit("between")
    found = asked(repo, game="pole")
    assert found.game == "pole_position"
    assert subjects(found) - {"between"} == set(texts)
    assert subjects(asked(repo, "wide", game="pole")) - {"between"} == set(texts)


def test_current_paths_goes_by_what_a_file_is_called_now(repo: Repo) -> None:
    text = "".join(f"line {number}\n" for number in range(30))
    repo.commit(
        "as a tool", {"tools/run.py": text, "gone_train.py": "zelda\n", "train_x.py": f"zelda\n{text}"}
    )
    repo.commit("named later", {"tools/run.py": text + "zelda\n"})
    repo.git("mv", "tools/run.py", "train_now.py")
    repo.git("mv", "train_x.py", "notes.txt")
    repo.commit("moved", {"gone_train.py": None})
    repo.commit("another under the old name", {"train_x.py": "zelda, quite different\n"})
    repo.commit("plain", {"configs/zelda/lr.txt": "lr: 1\n"})
    found = asked(repo, "current_paths")
    assert subjects(found) == {"named later", "another under the old name", "plain"}
    (named,) = [commit for commit in found.commits if commit.subject == "named later"]
    assert (named.files[0].path, named.files[0].now) == ("tools/run.py", "train_now.py")
    assert {repo.git("show", "-s", "--format=%s", each) for each in found.left_out} == {"as a tool", "moved"}
    assert subjects(asked(repo)) == {"as a tool", "moved", "another under the old name"}


def test_renames_are_followed_along_every_parent(repo: Repo) -> None:
    text = "".join(f"line {number}\n" for number in range(40))
    repo.commit("begin", {"tools/old.py": text})
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("on the side, under the old name", {"tools/old.py": text + "zelda\n"})
    repo.git("checkout", "-q", "main")
    repo.git("mv", "tools/old.py", "train.py")
    repo.commit("moved")
    repo.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    repo.commit("under the new name", {"train.py": text + "zelda 2\n"})
    found = asked(repo, "current_paths")
    assert subjects(found) == {"on the side, under the old name", "under the new name"}


FILES = st.sampled_from(["train.py", "configs/zelda.yaml", "notes.txt", "docs/zelda/x", "a b.yml", "infer/é"])
CONTENT = st.sampled_from([b"zelda\n", b"pong\n", b"pong\nzelda\n", b"\0zelda", b"", b"x\n" * 20 + b"zelda"])
CHANGE = st.one_of(
    st.tuples(st.just("M"), FILES, CONTENT),
    st.tuples(st.just("D"), FILES),
    st.tuples(st.just("R"), FILES, FILES),
)
COMMITS = st.lists(
    st.tuples(
        st.lists(CHANGE, max_size=3),
        st.integers(1735689000, 1767226000),
        st.lists(st.integers(1, 6), max_size=2),
    ),
    min_size=1,
    max_size=12,
)


def stream(commits: list[tuple[list[tuple[object, ...]], int, list[int]]]) -> Iterator[bytes]:
    """Commits as `git fast-import` reads them; each has the one before, and earlier ones, as parents."""
    have: dict[int, set[str]] = {}
    for mark, (edits, time, back) in enumerate(commits, 1):
        yield b"commit refs/heads/main\nmark :%d\n" % mark
        yield b"committer A <a> %d +0000\ndata 8\n%b\n" % (
            time,
            b"zelda   " if time % 3 == 0 else b"nothing ",
        )
        parents = dict.fromkeys(each for each in (mark - step for step in [1, *back]) if each > 0)
        for place, parent in enumerate(parents):
            yield b"%b :%d\n" % (b"merge" if place else b"from", parent)
        files = set(have.get(mark - 1, ()))
        for kind, name, *more in edits:
            shown = f'"{name}"'.encode()
            if kind == "M":
                yield b"M 100644 inline %b\ndata %d\n%b\n" % (shown, len(more[0]), more[0])
                files.add(str(name))
            elif name in files and kind == "D":
                yield b"D %b\n" % shown
                files.discard(str(name))
            elif name in files and more[0] != name:
                yield b"R %b %b\n" % (shown, f'"{more[0]}"'.encode())
                files = (files - {str(name)}) | {more[0]}
        have[mark] = files


@given(COMMITS)
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
def test_any_history_gives_what_plain_git_says(
    tmp_path_factory: pytest.TempPathFactory, commits: list
) -> None:  # type: ignore[type-arg]
    repo = Repo(tmp_path_factory.mktemp("any") / "repo")
    repo.git("fast-import", "--quiet", given=b"".join(stream(commits)))
    for mode in MODES:
        asked(repo, mode)


def test_thousands_of_commits_give_what_plain_git_says(repo: Repo) -> None:
    commits = []
    for number in range(3000):
        text = b"%s %d\n" % (b"zelda" if number % 5 == 0 else b"pong", number)
        edits = [("M", f"configs/{number % 7}.yaml", text)]
        commits.append((edits, 1735680000 + number * 10000, [30] if number % 50 == 0 else []))
    repo.git("fast-import", "--quiet", given=b"".join(stream(commits)))  # type: ignore[arg-type]
    assert len(asked(repo).commits) > 500
    assert len(asked(repo, "wide").commits) > 500
    assert len(asked(repo, "current_paths").commits) > 500

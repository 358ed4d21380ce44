"""Repositories of every kind, hostile ones among them, and places where there is none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reporter.core.git.question import MODES, question
from services.reporter.core.git.reading import changes, mentions, unquote
from services.reporter.core.git.report import report
from services.reporter.git.audit import audit
from tests import needs
from tests.unit.reporter.git.repository import Repo, hashes, subjects

ZELDA = question("zelda", 2025, "strict")


def begun(repo: Repo) -> Repo:
    repo.commit("one", {"train.py": "zelda\n"})
    repo.commit("two", {"train.py": "zelda\nlr\n", "README.md": "x"})
    return repo


def test_bare_worktree_detached_and_below_the_root_give_the_same(repo: Repo, tmp_path: Path) -> None:
    begun(repo)
    repo.git("worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    repo.git("clone", "-q", "--bare", str(repo.path), str(tmp_path / "bare.git"))
    (repo.path / "deep").mkdir()
    whole = audit(repo.path, ZELDA)
    for place in (tmp_path / "tree", tmp_path / "bare.git", repo.path / "deep"):
        assert hashes(audit(place, ZELDA)) == hashes(whole) == repo.plain(whole)
    assert audit(tmp_path / "tree", ZELDA).repository.branch is None
    assert audit(tmp_path / "bare.git", ZELDA).repository.bare
    assert whole.repository.branch == "main"


def test_changes_that_are_not_committed_are_told(repo: Repo) -> None:
    assert audit(begun(repo).path, ZELDA).repository.dirty is False
    repo.write({"train.py": "other\n"})
    assert audit(repo.path, ZELDA).repository.dirty is True


def test_a_shallow_clone_is_told_with_the_commit_where_it_ends(repo: Repo, tmp_path: Path) -> None:
    begun(repo)
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.path}", str(tmp_path / "shallow"))
    found = audit(tmp_path / "shallow", ZELDA)
    assert found.repository.shallow
    assert [(commit.subject, commit.boundary) for commit in found.commits] == [("two", True)]
    text = report(found, "x")
    assert "git fetch --unshallow" in text
    assert "(end of the shallow clone)" in text


def test_a_submodule_is_one_changed_path_and_its_history_is_not_looked_at(repo: Repo, tmp_path: Path) -> None:
    other = begun(Repo(tmp_path / "zelda"))
    repo.git(
        "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other.path), "models/zelda"
    )
    repo.git("config", "diff.submodule", "log")
    repo.commit("with a submodule")
    found = audit(repo.path, question("zelda", 2025, "wide"))
    assert [(commit.subject, commit.where[0]) for commit in found.commits] == [("with a submodule", "path")]
    assert hashes(found) == repo.plain(found)


def test_an_empty_repository_no_repository_and_a_late_git_say_so_and_how_to_go_on(
    repo: Repo, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    for place, limit, what in (
        (repo.path, 60, "has no commit yet"),
        (tmp_path / "none", 60, "is no git repository"),
        (repo.path, 0, "did not come to an end within 0 s"),
    ):
        found = audit(place, ZELDA, limit_sec=limit)
        assert found.problem is not None
        assert what in found.problem.what
        text = report(found, "x").splitlines()
        assert text[2].startswith("**What happened.** No history could be read")
        assert text[6].startswith("**What to do next.** ")


def test_a_machine_without_git_says_so(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = audit(repo.path, ZELDA)
    assert found.problem is not None
    assert found.problem.what == "There is no git program on this machine."


def test_a_repository_of_another_user_is_refused_with_the_cure(repo: Repo) -> None:
    needs.root()
    begun(repo)
    for path in (repo.path, repo.path / ".git"):
        os.chown(path, 65534, 65534)
    found = audit(repo.path, ZELDA)
    assert found.problem is not None
    assert "belongs to another user" in found.problem.what
    assert f"git config --global --add safe.directory {repo.path}" in found.problem.cure


def test_a_damaged_repository_quotes_git(repo: Repo) -> None:
    tree = begun(repo).git("rev-parse", "HEAD^{tree}")
    (repo.path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    found = audit(repo.path, ZELDA)
    assert found.problem is not None
    assert found.problem.what.startswith(f"Git failed in {repo.path}: fatal")


def test_replaced_objects_are_read_as_they_were_committed(repo: Repo) -> None:
    first = repo.commit("one", {"configs/a.yaml": "zelda: 1\n"})
    second = repo.commit("two", {"configs/a.yaml": "zelda: 2\n"})
    repo.commit("three", {"configs/a.yaml": "zelda: 3\n"})
    repo.git("replace", "--graft", "HEAD", first)
    repo.git("replace", second, first)
    for mode in MODES:
        found = audit(repo.path, question("zelda", 2025, mode))
        assert subjects(found) == {"one", "two", "three"}
        assert hashes(found) == repo.plain(found)
        assert "2 objects of `git replace` read as committed" in report(found, "x")


def test_grafts_are_told(repo: Repo) -> None:
    first = repo.commit("one", {"configs/a.yaml": "zelda: 1\n"})
    repo.commit("two", {"configs/a.yaml": "zelda: 2\n"})
    last = repo.commit("three", {"configs/a.yaml": "zelda: 3\n"})
    repo.git("config", "advice.graftFileDeprecated", "false")
    repo.write({".git/info/grafts": f"{last} {first}\n"})
    found = audit(repo.path, ZELDA)
    assert hashes(found) == repo.plain(found) == {first, last}
    assert "`info/grafts` gives commits other parents" in report(found, "x")


def test_a_partial_clone_fetches_nothing_and_says_what_to_do(repo: Repo, tmp_path: Path) -> None:
    begun(repo).git("config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    repo.git("clone", "-q", "--bare", "--filter=blob:none", f"file://{repo.path}", str(partial))
    found = audit(partial, ZELDA)
    assert found.problem is not None
    assert "is a partial clone" in found.problem.what
    assert "without --filter" in found.problem.cure


def test_a_file_that_turns_executable_link_and_directory_is_as_plain_git_says(repo: Repo) -> None:
    body = "".join(f"line {number}\n" for number in range(30)) + "zelda\n"
    file = repo.path / "configs" / "zelda.yaml"
    repo.commit("begin", {"configs/a.yaml": body})
    repo.git("mv", "configs/a.yaml", "configs/zelda.yaml")
    file.chmod(0o755)
    repo.commit("renamed and executable")
    file.unlink()
    file.symlink_to("../zelda-target")
    repo.commit("a link")
    file.unlink()
    repo.commit("a file", {"configs/zelda.yaml": body})
    file.unlink()
    repo.commit("a directory", {"configs/zelda.yaml/train.py": "zelda\n"})
    repo.git("config", "diff.orderFile", "nowhere")
    for mode in MODES:
        found = audit(repo.path, question("zelda", 2025, mode))
        assert found.problem is None
        assert hashes(found) | set(found.left_out) == repo.plain(found)


def test_commits_that_no_git_would_make_are_read(repo: Repo) -> None:
    repo.commit("begin", {"configs/a.yaml": "zelda: 1\n"})
    tree = repo.git("rev-parse", "HEAD^{tree}")
    for author, committer in (
        (b"No Mail 1748779200 +0000", b"Ada <a@b> 1748779200 +0000"),
        (b"Ada <a@b> notadate +0000", b"Ada <a@b> 99999999999999999999 +0000"),
        (b"<>", b"<> 1748779200 +9999"),
    ):
        head = f"tree {tree}\nparent {repo.git('rev-parse', 'HEAD')}\n".encode()
        body = b"encoding bogus\n\nzelda \xff\x1b[31m\x00hidden\n"
        raw = b"%bauthor %b\ncommitter %b\n%b" % (head, author, committer, body)
        made = repo.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", given=raw)
        repo.git("update-ref", "refs/heads/main", made)
    repo.commit("end", {"configs/a.yaml": "zelda: 2\n"})
    for mode in MODES:
        found = audit(repo.path, question("zelda", 2025, mode))
        assert found.problem is None
        assert hashes(found) == repo.plain(found)
        assert "\x1b" not in report(found, "x")


def test_nothing_that_a_repository_configures_is_run(repo: Repo, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    evil = tmp_path / "evil"
    evil.write_text(f'#!/bin/sh\necho "$0 $@" >> {ran}\n')
    evil.chmod(evil.stat().st_mode | stat.S_IXUSR)
    begun(repo)
    (repo.path / ".gitattributes").write_text("*.py diff=evil filter=evil merge=evil\n")
    for key in (
        "core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "core.askPass", "diff.external",
        "diff.evil.command", "diff.evil.textconv", "filter.evil.clean", "filter.evil.smudge",
        "filter.evil.process", "gpg.program", "core.alternateRefsCommand", "credential.helper",
    ):  # fmt: skip
        repo.git("config", key, str(evil))
    for key, value in {
        "alias.log": f"!{evil}", "log.showSignature": "true", "core.hooksPath": str(tmp_path),
        "extensions.partialClone": "evil", "remote.evil.promisor": "true", "remote.evil.url": f"ext::{evil}",
        "protocol.ext.allow": "always", "color.ui": "always", "diff.noprefix": "true",
    }.items():  # fmt: skip
        repo.git("config", key, value)
    for name in ("post-index-change", "fsmonitor-watchman", "pre-auto-gc"):
        (tmp_path / name).write_text(evil.read_text())
        (tmp_path / name).chmod(0o700)
    (repo.path / "train.py").write_text("zelda\nxx\n")
    for mode in ("strict", "wide", "current_paths"):
        found = audit(repo.path, question("zelda", 2025, mode))  # type: ignore[arg-type]
        assert subjects(found) == {"one"}
    blob = repo.git("rev-parse", "HEAD:README.md")
    (repo.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()  # a partial clone would fetch it
    audit(repo.path, question("zelda", 2025, "wide"))
    assert not ran.exists(), ran.read_text()


def test_the_audit_writes_nothing_into_the_repository(repo: Repo) -> None:
    begun(repo)
    os.utime(repo.path / "train.py")
    before = {path: path.stat().st_mtime_ns for path in repo.path.rglob("*")}
    audit(repo.path, ZELDA)
    assert {path: path.stat().st_mtime_ns for path in repo.path.rglob("*")} == before


def test_texts_of_others_become_no_markdown_no_html_and_no_terminal_command(repo: Repo) -> None:
    message = "<script>alert(1)</script> [x](http://evil) | a \\| b `code` **bold** \x1b[31m \u202e @who #1"
    name = "configs/`|<b>.yaml"
    repo.commit(
        message, {name: "zelda ``` \n</details> ```` zelda\n\x1b]0;zelda\x07\n"}, GIT_AUTHOR_NAME="a|<i>"
    )
    found = audit(repo.path, ZELDA)
    text = report(found, "x")
    rows = [line for line in text.splitlines() if line.startswith("|") and found.commits[0].hash[:10] in line]
    assert len(rows) == 1
    assert rows[0].count("|") == 7
    outside = text.split("`````diff")[0]
    for bad in ("<script", "<b>", "<i>", "[x](", "**bold**", "http:", "`code`", "\x1b", "\u202e", "@who"):
        assert bad not in outside
    assert "\x1b" not in text
    assert text.count("`````") == 2


@given(st.lists(st.binary(max_size=40)), st.binary(max_size=30))
def test_no_bytes_make_the_readers_fail(lines: list[bytes], name: bytes) -> None:
    heads = [b"@@ -1,2 +3 @@\n", b"@@@ -1 -1 +1,2 @@@\n", b"--- a/x\n", b'+++ "b/\\\n', b"commit \n"]
    mixed = [part for pair in zip(lines, heads * len(lines), strict=False) for part in pair]
    list(mentions(mixed, ZELDA.mention))
    list(changes(mixed))
    quoted = b'"' + b"".join(b"\\%03o" % byte for byte in name) + b'"'
    assert unquote(quoted) == name

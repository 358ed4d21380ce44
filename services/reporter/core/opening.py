"""How every report begins and ends: what happened, what to trust, what to do; risks, actions, the rest."""

from __future__ import annotations

from services.reporter.core.actions import actions
from services.reporter.core.findings import headline, residual_risks, trust
from services.reporter.core.hostile import inline
from services.reporter.core.markdown import bullets, numbered
from services.reporter.core.material import Material
from services.reporter.core.story import Outcome, Story


def opening(title: str, story: Story, outcome: Outcome) -> list[str]:
    """The title and the three sentences that a reader in a hurry reads."""
    return [
        f"# {title}: {inline(story.spec.run_name)} (run {story.run_id})",
        "",
        f"**What happened.** {headline(story, outcome)}",
        "",
        f"**What to trust.** {trust(story, outcome)}",
        "",
        f"**What to do next.** {actions(story, outcome).now[0]}",
        "",
    ]


def risks(story: Story, outcome: Outcome) -> list[str]:
    """The section on what could be wrong although the run says otherwise."""
    measured = story.gates or story.inferences
    none = "None was found by what was measured." if measured else "Nothing was measured, so none is known."
    return ["", "## Residual risks", "", *bullets(residual_risks(story, outcome), none)]


def what_to_do(story: Story, outcome: Outcome) -> list[str]:
    """The section on what to do, now and in the next full cycle."""
    found = actions(story, outcome)
    later = numbered(found.next_cycle) or ["Nothing that this run shows."]
    return ["", "## Actions", "", "Now:", "", *numbered(found.now), "", "Next cycle:", "", *later]


def the_rest(material: Material) -> list[str]:
    """The section with links to other files of the run."""
    rows = [f"- {name}: {material.link(path, whole=True)}" for name, path in material.others.items()]
    return ["", "## The rest", "", *(rows or ["Nothing else was written."])]

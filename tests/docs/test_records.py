"""Decisions and measurements: every number that is named exists, every result says what it is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
DECISIONS = (ROOT / "docs" / "decisions.md").read_text()
HEADING = re.compile(r'^<a id="d(\d+)"></a>\n### D(\d+)\. ', re.M)
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *RESULTS.glob("**/README.md")]
SOURCES = [
    path
    for folder in ("saboc_jax", "experiments", "docs", "tests")
    for path in (ROOT / folder).glob("**/*.py")
    if path != Path(__file__)
]


def numbers():
    return [int(number) for _, number in HEADING.findall(DECISIONS)]


def test_decisions_are_numbered_without_a_gap_and_can_be_linked_to():
    assert numbers() == list(range(1, len(numbers()) + 1))
    assert all(anchor == number for anchor, number in HEADING.findall(DECISIONS))
    assert len(re.findall(r"^### ", DECISIONS, re.M)) == len(numbers()) > 55


def test_every_decision_that_is_named_is_listed():
    known, named = set(numbers()), set()
    for path in [*DOCUMENTS, *SOURCES]:
        mine = {int(number) for number in re.findall(r"\bD(\d+)\b", path.read_text())}
        assert mine <= known, f"{path.relative_to(ROOT)} names {sorted(mine - known)}"
        named |= mine if path in SOURCES else set()
    assert {1, 2, 8, 11, 15} <= named


def slug(heading):
    """The anchor that GitHub and MkDocs make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(page):
    text = page.read_text()
    return {slug(line) for line in re.findall(r"^#+ (.*)$", text, re.M)} | set(
        re.findall(r'<a id="([\w-]+)">', text)
    )


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{target}: no such file"
        if anchor and not anchor.startswith("saboc_jax."):  # those are made by mkdocstrings
            assert anchor in anchors(linked), f"{target}: no such heading"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_document_names_exist(page):
    named = re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|sh|yml|json|csv))[`:]", page.read_text())
    places = (ROOT, ROOT / "saboc_jax", page.parent)
    missing = [name for name in named if not any((place / name).is_file() for place in places)]
    assert missing == []


def test_every_kept_result_has_its_readme_and_says_of_which_keys_it_is():
    folders = [folder for folder in RESULTS.iterdir() if folder.is_dir()]
    assert len(folders) > 25
    for folder in folders:
        text = (folder / "README.md").read_text()
        runs = any('"settings": {' in path.read_text() for path in folder.glob("**/*.json"))
        assert len(re.findall(r"^Keys: .*\.$", text, re.M)) == 1 or not runs, folder.name
    listed = (ROOT / "docs" / "measurements.md").read_text()
    assert [f.name for f in folders if f"`{f.name}`" not in listed.replace("results/", "`")] == []


def test_the_notes_are_a_page_that_one_reads_to_the_end():
    assert len((ROOT / "BUILD_NOTES.md").read_text().splitlines()) <= 100

"""The glossary is sound and in use, and the hand-written pages keep to plain words."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [
    *(path for path in (ROOT / "docs").rglob("*.md") if "gallery" not in path.parts),
    *(ROOT / "examples" / "gallery").glob("*.*"),
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
]
# Time is before and after; a file is stored or next to another; a function returns.
AVOIDED = r"behind|in front of|lies?|lay|stands?|stood|rests?|says?|said|beside"
IDIOMS = r"the rest of"


def entries() -> list[tuple[str, str]]:
    """Return the words of the glossary and their meanings."""
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if re.match(r"\| (?!word \|)\w", line)]
    return [(word.strip(), meaning.strip()) for word, meaning in rows]


def prose(path: Path) -> str:
    """Return a page without code."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"``.*?``|`[^`\n]*`", "", text)


def test_the_glossary_has_the_words_of_the_design():
    words = {word for word, _ in entries()}
    assert words >= {
        *("backbone", "site (of a backbone)", "injection", "query", "matcher", "bank"),
        *("classifier", "method", "learned tensors", "stream", "bundle", "program", "pack"),
        *("release", "channel", "store", "canary"),
    }


@pytest.mark.parametrize(("word", "meaning"), entries())
def test_a_meaning_is_one_sentence(word, meaning):
    assert re.fullmatch(r"[A-Z].*\.", meaning)
    assert not re.search(r"[.!?] [A-Z]", meaning.rstrip("."))


def test_a_word_has_one_entry():
    assert [
        word for word, count in Counter(word for word, _ in entries()).items() if count > 1
    ] == []


@pytest.mark.parametrize("word", [word for word, _ in entries()])
def test_a_word_is_in_use(word):
    bare = re.sub(r" \(.*\)", "", word)
    pattern = re.compile(rf"\b{re.escape(bare)}(s|es)?\b", re.IGNORECASE)
    assert any(pattern.search(prose(path)) for path in PAGES if path != GLOSSARY)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_keeps_to_plain_words(path):
    text = re.sub(IDIOMS, "", prose(path))
    found = re.findall(rf"\b({AVOIDED})\b.{{0,30}}", text)
    assert found == [], "say when, where and who in plain words"

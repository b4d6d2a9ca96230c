"""The pages behind the chapters: one meaning for each letter, every public name, every chapter, every reference."""

import dataclasses
import importlib
import inspect
import re

import nbformat
import pytest
import yaml
from conftest import ROOT

import attattr

BOOK = ROOT / "book"
QUOTE = re.compile(r"(:{3,})\{admonition\}[^\n]*\n:class: paper-says.*?\n\1(?=\n|$)", re.DOTALL)
GREEK = re.findall(r"\w+", "alpha beta gamma delta epsilon kappa lambda mu rho sigma tau phi Phi Delta Sigma Omega")


def markdown(path):
    """The words of a page, without the output and the code of its cells."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")


PAGES = {path.stem: markdown(path) for path in sorted([*BOOK.glob("*.ipynb"), *BOOK.glob("*.md")])}
CHAPTERS = {name: text for name, text in PAGES.items() if re.match(r"\d\d-", name)}


def letters(formula):
    """The letters of a formula: what stands for something in it, without its words, signs and functions."""
    formula = re.sub(r"\\(text|operatorname\*?|mathrm|rm|begin|end)\s*\{[^{}]*\}|\\(text|rm)\b\s*\w+", " ", formula)
    styled = re.findall(r"\\(math\w+)\s*\{?([A-Z])\}?", formula)
    formula = re.sub(r"\\(math\w+)\s*\{?([A-Z])\}?", " ", formula)
    greek = {name for name in re.findall(r"\\([A-Za-z]+)", formula) if name in GREEK}
    return {f"{style}{letter}" for style, letter in styled} | greek | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))


def formulas(text):
    """The formulas of a page that are not a quote."""
    text = re.sub(r"```.*?```|`[^`\n]*`|“[^”]*”|\"[^\"\n]*\"", "", QUOTE.sub("", text), flags=re.DOTALL)
    return [one or other for one, other in re.findall(r"\$\$(.*?)\$\$|\$([^$\n]+)\$", text, flags=re.DOTALL)]


ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGES["notation"].replace(r"\lvert", "").splitlines()
    if re.match(r"\| \$", line)
]
SYMBOLS = [symbol for row in ROWS for symbol in re.findall(r"\$([^$]+)\$", row[0])]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`([^`]+)`", row[-1])})
KNOWN = set().union(*map(letters, SYMBOLS))
GLOSSARY = re.findall(r"^(\S[^\n]*)\n  \S", re.search(r"```\{glossary\}\n(.*?)```", PAGES["notation"], re.DOTALL)[1], re.MULTILINE)


def test_no_symbol_has_two_meanings():
    assert len(SYMBOLS) > 50
    assert len(set(SYMBOLS)) == len(SYMBOLS), sorted(symbol for symbol in SYMBOLS if SYMBOLS.count(symbol) > 1)


@pytest.mark.parametrize("name", [*CHAPTERS, "where-this-stands"])
def test_a_chapter_uses_no_letter_that_the_notation_does_not_know(name):
    for formula in formulas(PAGES[name]):
        assert letters(formula) <= KNOWN, formula


@pytest.mark.parametrize(("letter", "where"), [("m", {"03"}), ("p", {"01", "12"}), ("q", {"09"}), ("M", {"03"}), ("kappa", {"05"})])
def test_a_letter_that_had_several_meanings_is_met_where_its_own_is(letter, where):
    met = {name[:2] for name, text in CHAPTERS.items() if any(letter in letters(formula) for formula in formulas(text))}
    assert met and met <= where | {"13", "15"}, met


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_code_is_there(name):
    path, option = name.split("(")[0].split("."), re.search(r"\((\w+)=\)", name)
    found = attattr
    for place, part in enumerate(path):
        if dataclasses.is_dataclass(found) and place == len(path) - 1:
            assert part in {field.name for field in dataclasses.fields(found)} | set(vars(found))
            return
        found = getattr(found, part, None) or importlib.import_module(f"attattr.{'.'.join(path[: place + 1])}")
    if option:
        assert option[1] in inspect.signature(found).parameters


def test_a_term_of_a_page_is_in_the_glossary():
    assert len(GLOSSARY) > 50 and sorted(GLOSSARY, key=str.casefold) == GLOSSARY, "not in order"
    known = {term.casefold() for term in GLOSSARY}
    for name, text in PAGES.items():
        for shown, meant in re.findall(r"\{term\}`([^`<]+?)(?: <([^`>]+)>)?`", text):
            assert (meant or shown).casefold() in known, (name, shown)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_leads_to_the_glossary_now_and_then(name):
    assert 5 <= len(re.findall(r"\{term\}`", CHAPTERS[name])) <= 12


def test_the_reference_lists_every_public_name_and_the_members_of_what_is_returned():
    listed = re.findall(r"\.\. auto(?:function|class):: attattr\.([\w.]+)", PAGES["api"])
    public = set(attattr.__all__) - {"figures", "widgets"}
    public |= {f"figures.{name}" for name in attattr.figures.__all__ if name != "grammar"}
    public |= {f"widgets.{name}" for name in re.findall(r"attattr\.widgets\.(\w+)", "".join(PAGES.values()))}
    public |= {"graph.ReceptiveField", "heads.PruningCurve", "triggers.Attack", "saliency.MaskingCurves"}
    assert public <= set(listed) and len(listed) == len(set(listed)), public - set(listed)
    for name in listed:
        module, _, leaf = name.rpartition(".")
        assert inspect.getdoc(getattr(importlib.import_module(f"attattr.{module}".rstrip(".")), leaf)), name


def test_every_live_explorer_is_in_the_reference():
    made = {name for name, found in vars(attattr.widgets).items() if name.endswith(("_explorer", "_browser")) and inspect.isfunction(found)}
    assert made and made == set(re.findall(r"attattr\.widgets\.(\w+)", PAGES["api"]))


def minutes(text):
    """Of a chapter's card: minutes of reading, and of exercises."""
    time = re.search(r"\{grid-item-card\} Time\n(.*?)\n:", text, re.DOTALL)[1]
    reading = re.search(r"(\d+) minutes (?:of reading|to read)", time)[1]
    return reading, (re.search(r"(\d+) (?:minutes of|for the) exercises", time) or re.search(r"exercises: (\d+) minutes", time))[1]


def test_teachers_find_every_chapter_with_the_times_of_its_card():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [chapter["file"].removeprefix("book/") for part in toc["parts"] for chapter in part["chapters"]]
    assert {name for name in files if re.match(r"\d\d-", name)} == set(CHAPTERS)
    for name, text in CHAPTERS.items():
        row = re.search(rf"^\| \d+ \[([^]]+)\]\({name}\), (\d+) \+ (\d+) \| … .* \| .*\. \|$", PAGES["for-teachers"], re.MULTILINE)
        assert row, name
        assert text.startswith(f"# {row[1]}\n") and (row[2], row[3]) == minutes(text), name


def test_each_reference_is_cited_and_each_citation_is_a_reference():
    keys = re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text(encoding="utf-8"), re.MULTILINE)
    cited = {key.strip() for text in PAGES.values() for keys in re.findall(r"\{cite:[tp]\}`([^`]+)`", text) for key in keys.split(",")}
    assert len(keys) == len(set(keys))
    assert set(keys) == cited, set(keys) ^ cited


def test_labels_of_references_differ():
    import sys

    from pybtex.database import parse_file

    sys.path.append(str(BOOK / "_ext"))
    from author_year import label

    labels = [label(entry) for entry in parse_file(BOOK / "references.bib").entries.values()]
    assert len(set(labels)) == len(labels)
    assert {"Hao et al., 2020", "Hao et al., 2021", "Abnar and Zuidema, 2020", "Chefer et al., 2021b"} <= set(labels)


def test_the_readme_and_the_first_page_lead_to_every_chapter():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(\d+)\. \[[^]]+\]\(book/(\d\d-[\w-]+)\.ipynb\)", readme, re.MULTILINE)
    assert [name for _, name in listed] == sorted(CHAPTERS)
    assert all(int(number) == int(name[:2]) for number, name in listed)
    assert set(CHAPTERS) <= set(re.findall(r"\((\d\d-[\w-]+)\)", PAGES["index"]))

"""A table of a chapter has headings and a caption for whoever cannot see it, and nothing in it is taken for HTML."""

from xml.etree import ElementTree

import pandas

from attattr.book.tables import table


def test_a_table_is_html_with_headings_a_caption_and_formatted_numbers():
    frame = pandas.DataFrame({"<b>": [0.12345, None], "text": ["x & y", "<i>"]}, index=["first", "s<econd"])
    root = ElementTree.fromstring(table(frame, "Shares & <counts>", "{:.2f}")._repr_html_())
    assert root.get("aria-label") == root.find("table/caption").text == "Shares & <counts>"
    assert [(one.get("scope"), one.text) for one in root.findall(".//thead//th")] == [("col", None), ("col", "<b>"), ("col", "text")]
    assert [(one.get("scope"), one.text) for one in root.findall(".//tbody//th")] == [("row", "first"), ("row", "s<econd")]
    assert [one.text for one in root.findall(".//td")] == ["0.12", "x & y", "–", "<i>"]


def test_the_same_table_is_the_same_text_and_forms_go_by_column():
    frame = pandas.DataFrame({"share": [0.5], "rows": [7]}, index=["a"])
    shown = table(frame, "one", {"share": "{:.0%}", "rows": lambda count: f"{count} rows"})
    assert shown._repr_html_() == table(frame, "one", {"share": "{:.0%}", "rows": lambda count: f"{count} rows"})._repr_html_()
    assert "<td>50%</td>" in shown._repr_html_() and "<td>7 rows</td>" in shown._repr_html_()
    assert [line.split() for line in repr(shown).splitlines()] == [["one"], ["share", "rows"], ["a", "50%", "7", "rows"]]


def test_a_number_is_rounded_once():
    frame = pandas.DataFrame({"share": [0.06849]}, index=["a"])
    assert "6.8%" in table(frame, "one", "{:.1%}")._repr_html_() and "6.8%" in repr(table(frame, "one", "{:.1%}"))

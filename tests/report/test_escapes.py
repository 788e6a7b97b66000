"""Texts of users are escaped in terminals, spreadsheets, Markdown, LaTeX, figures and logs."""

import sys
import xml.etree.ElementTree as ElementTree

import polars as pl
import pytest
from rich.table import Table

from fedprofit.core.errors import UserError, printable
from fedprofit.core.terminal import Terminal
from fedprofit.report.page import escape_controls
from fedprofit.report.table import escape_formulas, escape_latex, escape_markdown, markdown_table
from fedprofit.runs.progress import Plain, Quiet

CONTROLS = [
    chr(code) for code in [*range(32), *range(127, 160), 0x202E, 0x2066, 0xD800] if chr(code) not in "\t\n"
]
CLEAR = "\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.exe\r"


def controls_in(text):
    return [character for character in CONTROLS if character in text]


def test_printable_escapes_only_control_characters():
    for control in CONTROLS:
        assert not controls_in(printable(f"a{control}b"))
    unchanged = "tab\t line\n é 中 α=0.5 🙂 \\x1b"
    assert printable(unchanged) == unchanged


def test_terminal_escapes_controls_and_markup():
    terminal = Terminal()
    table = Table(title=CLEAR)
    table.add_column(CLEAR)
    table.add_row(CLEAR)
    with terminal.capture() as printed:
        terminal.print(table, f"client {CLEAR}", "[red]x[/red] :smile:")
    assert not controls_in(printed.get())
    assert printed.get().count("\\x1b[2J") == 4
    assert "[red]x[/red] :smile:" in printed.get()


def test_progress_logs_and_errors_escape_controls(tmp_path, capsys):
    report = Plain()
    report.plan(tmp_path / "run.log", 1.0)
    report.say(CLEAR)
    report.log(f"client {CLEAR}\n2030-01-01 00:00:00  complete")
    printed, log = capsys.readouterr().err, (tmp_path / "run.log").read_text()
    assert "\\x1b[2J" in printed
    assert not controls_in(printed + log + str(UserError(CLEAR)))
    assert len(log.splitlines()) == 1, "a name adds no log entry"


class FullStream:
    """A stream on which every write fails."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_progress_continues_when_standard_error_fails(monkeypatch):
    monkeypatch.setattr("sys.stderr", FullStream())
    Plain().begin("base")
    print("more", file=sys.stderr, flush=True)


def test_log_raises_user_error_when_not_writable(tmp_path):
    report = Quiet(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        report.log("x")


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_escape_formulas_escapes_texts_but_not_numbers(begin):
    texts = [f"{begin}1+cmd|x", f"a{begin}1", "", None]
    axis = ["-1.5", "+2e-3", "1", "-inf"]
    table = pl.DataFrame({"setting": texts, f"{begin}axis": axis, "gain": [-1.5, 0, 1, 2]})
    escaped = escape_formulas(table)
    assert escaped["setting"].to_list() == [f"'{begin}1+cmd|x", f"a{begin}1", "", None]
    assert escaped[f"'{begin}axis"].to_list() == axis, "numbers are unchanged"
    assert escaped["gain"].to_list() == [-1.5, 0, 1, 2]


def test_markdown_table_escapes_hostile_texts():
    hostile = "a|b `c` **d** # <script>x</script> [e](javascript:f) ![g](http://h)\n\n# new &lt; $i$ _j_ \\|"
    page = markdown_table(hostile, [hostile, "n"], [[hostile, "1.0 [0.5, 2.0]"]], numbers=1)
    lines = page.splitlines()
    assert len(lines) == 5, "no text starts a line"
    assert lines[0].startswith("### a\\|b")
    for row in (lines[2], lines[4]):
        unescaped = [c for n, c in enumerate(row) if c == "|" and (n == 0 or row[n - 1] != "\\")]
        assert len(unescaped) == 3, "no text ends a table cell"
    for active in ("<script", "](", " `", "**", "p://", " $", "&lt; $", " _j"):
        assert active not in page
    assert lines[4].endswith("| 1.0 [0.5, 2.0] |")
    plain = "fedavg, tune_1, α=0.5 [1.0, 2.0], C++ & Co: 3 > 2, rate 1e-3"
    assert escape_markdown(plain) == plain


def test_latex_and_page_contain_no_controls():
    assert not controls_in(escape_latex(CLEAR))
    assert not controls_in(str(escape_controls({CLEAR: [CLEAR, {"a": (CLEAR,)}]})))


def test_write_figure_escapes_controls(tmp_path):
    from matplotlib.figure import Figure

    from fedprofit.core.files import write_figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_title(CLEAR)
    axes.set_xticks([0, 1], [CLEAR, "b"])
    write_figure(tmp_path / "a.svg", figure, dpi=50)
    ElementTree.parse(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert not controls_in(text)
    assert text.count("x1b[2J") == 2

"""What users' names hold is shown and never obeyed: by terminals, spreadsheets, Markdown, pictures, logs."""

import sys
import xml.etree.ElementTree as ElementTree

import polars as pl
import pytest
from rich.table import Table

from fedprofit.core.errors import UserError, printable
from fedprofit.core.terminal import Terminal
from fedprofit.report.page import shown
from fedprofit.report.table import in_latex, in_markdown, in_spreadsheet, markdown
from fedprofit.runs.progress import Plain, Quiet

CONTROLS = [
    chr(code) for code in [*range(32), *range(127, 160), 0x202E, 0x2066, 0xD800] if chr(code) not in "\t\n"
]
CLEAR = "\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.exe\r"


def obeyed(text):
    return [character for character in CONTROLS if character in text]


def test_controls_are_shown_and_all_else_stays():
    for control in CONTROLS:
        assert not obeyed(printable(f"a{control}b"))
    kept = "tab\t line\n é 中 α=0.5 🙂 \\x1b"
    assert printable(kept) == kept


def test_the_terminal_obeys_no_text():
    terminal = Terminal()
    table = Table(title=CLEAR)
    table.add_column(CLEAR)
    table.add_row(CLEAR)
    with terminal.capture() as said:
        terminal.print(table, f"client {CLEAR}", "[red]x[/red] :smile:")
    assert not obeyed(said.get())
    assert said.get().count("\\x1b[2J") == 4
    assert "[red]x[/red] :smile:" in said.get()


def test_progress_logs_and_errors_obey_no_text(tmp_path, capsys):
    report = Plain()
    report.plan(tmp_path / "run.log", 1.0)
    report.say(CLEAR)
    report.log(f"client {CLEAR}\n2030-01-01 00:00:00  complete")
    said, log = capsys.readouterr().err, (tmp_path / "run.log").read_text()
    assert "\\x1b[2J" in said
    assert not obeyed(said + log + str(UserError(CLEAR)))
    assert len(log.splitlines()) == 1, "a name makes no entry of its own"


class Full:
    """A standard error that takes nothing."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def test_progress_that_nobody_can_read_ends_no_run(monkeypatch):
    monkeypatch.setattr("sys.stderr", Full())
    Plain().begin("base")
    print("more", file=sys.stderr, flush=True)


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    report = Quiet(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        report.log("x")


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_spreadsheets_compute_no_text(begin):
    texts = [f"{begin}1+cmd|x", f"a{begin}1", "", None]
    axis = ["-1.5", "+2e-3", "1", "-inf"]
    table = pl.DataFrame({"setting": texts, f"{begin}axis": axis, "gain": [-1.5, 0, 1, 2]})
    found = in_spreadsheet(table)
    assert found["setting"].to_list() == [f"'{begin}1+cmd|x", f"a{begin}1", "", None]
    assert found[f"'{begin}axis"].to_list() == axis, "numbers stay numbers"
    assert found["gain"].to_list() == [-1.5, 0, 1, 2]


def test_markdown_shows_texts_as_they_are():
    hostile = "a|b `c` **d** # <script>x</script> [e](javascript:f) ![g](http://h)\n\n# new &lt; $i$ _j_ \\|"
    page = markdown(hostile, [hostile, "n"], [[hostile, "1.0 [0.5, 2.0]"]], numbers=1)
    lines = page.splitlines()
    assert len(lines) == 5, "no text begins a line"
    assert lines[0].startswith("### a\\|b")
    for row in (lines[2], lines[4]):
        unescaped = [c for n, c in enumerate(row) if c == "|" and (n == 0 or row[n - 1] != "\\")]
        assert len(unescaped) == 3, "a text ends no cell"
    for active in ("<script", "](", " `", "**", "p://", " $", "&lt; $", " _j"):
        assert active not in page
    assert lines[4].endswith("| 1.0 [0.5, 2.0] |")
    plain = "fedavg, tune_1, α=0.5 [1.0, 2.0], C++ & Co: 3 > 2, rate 1e-3"
    assert in_markdown(plain) == plain


def test_latex_and_the_page_hold_no_controls():
    assert not obeyed(in_latex(CLEAR))
    assert not obeyed(str(shown({CLEAR: [CLEAR, {"a": (CLEAR,)}]})))


def test_pictures_show_controls(tmp_path):
    from matplotlib.figure import Figure

    from fedprofit.core.files import write_figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_title(CLEAR)
    axes.set_xticks([0, 1], [CLEAR, "b"])
    write_figure(tmp_path / "a.svg", figure, dpi=50)
    ElementTree.parse(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert not obeyed(text)
    assert text.count("x1b[2J") == 2

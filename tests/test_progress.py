"""Progress: a bar on a terminal, a line a minute elsewhere, and a remaining time."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

import saboc_jax as sj
from saboc_jax import data, progress
from saboc_jax.searching.run import expected_evaluations


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def test_a_terminal_shows_counts_and_times_and_ends_clean():
    console = terminal()
    with progress.bar("scoring [x]", 4, console) as bar:
        bar.advance()
        bar.advance(2)
        console.print("a result")
    shown = console.file.getvalue()
    assert "scoring [x]" in shown and "3/4" in shown
    assert "a result" in shown
    assert "\x1b[2K" in shown.rpartition("3/4")[2]  # the line is wiped at the end


def test_elsewhere_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar("scoring", 100, Console(file=io.StringIO())) as bar:
        for second in range(150):
            now[0] = float(second)
            bar.advance() if second % 15 == 0 else None
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 5 of 100, 1:00, 19:00 left",
        "scoring: 9 of 100, 2:00, 20:13 left",
    ]


def test_nothing_is_said_of_what_is_short_or_not_wanted(monkeypatch, capsys):
    with progress.bar("short", 2) as bar:
        bar.advance(2)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with progress.bar("silent", 2, lines=False) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")
    console = terminal()
    with progress.bar("off", 2, console, live=False, lines=False) as bar:
        bar.advance()
    assert console.file.getvalue() == ""


def test_a_calm_bar_is_drawn_when_it_is_told():
    console = terminal()
    values = list(progress.track("ab", "measuring", console, calm=True))
    assert values == ["a", "b"]
    assert "2/2" in console.file.getvalue()


def test_an_unknown_number_has_no_remaining_time():
    with progress.bar("searching") as bar:
        bar.advance(3)
        assert bar.line(3700.0) == "searching: 3 done, 1:01:40"
        bar.expect(6)
        assert bar.line(60.0) == "searching: 3 of 6, 1:00, 1:00 left"


@pytest.mark.parametrize(("name", "number"), [("pruning", 12), ("evolution", 1256), ("random", 40)])
def test_the_length_of_a_search_is_known_beforehand(name, number):
    options = {"max_evaluations": 40} if name == "random" else {}
    searcher = sj.SEARCHERS[name]((3, 3), (False, True), **options)
    assert expected_evaluations(searcher) == number
    if name == "pruning":  # as it truly runs, whatever the scores
        state, count, rng = searcher.init(jax.random.key(0)), 0, np.random.default_rng(0)
        while not searcher.done(state):
            masks, state = searcher.ask(jax.random.key(1), state)
            state = searcher.tell(state, masks, rng.normal(size=(len(masks), 1, 2)))
            count += len(masks)
        assert count == number


def test_functions_draw_where_there_is_a_terminal(monkeypatch):
    console = terminal()
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    space = sj.make_space("nas_bench_201", channels=2, num_cells=1)
    digits = data.load("digits")
    key = jax.random.key(0)
    options = {"space": space, "repeats": 1, "batch_size": 4}
    sj.score([1] * 6, digits, key, "params", progress=False, **options)
    assert console.file.getvalue() == ""
    sj.rank([[1] * 6, [3] * 6], digits, key, "params", **options)
    assert "scoring" in console.file.getvalue()
    sj.search(
        space, digits, key, "params", searcher="random", max_evaluations=5, repeats=1, batch_size=4
    )
    assert "searching" in console.file.getvalue() and "/5" in console.file.getvalue()


@pytest.mark.parametrize(("seconds", "told"), [(0.5, True), (0.001, False)])
def test_huge_work_says_how_long_it_takes_before_it_begins(seconds, told, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    done = []
    for value in progress.foreseen(range(1_000), "drawing"):
        now[0] += 100.0 if value == 0 else seconds  # the first compiles
        if value == 20:
            said = capsys.readouterr().err
        done.append(value)
    assert done == list(range(1_000))
    assert said == ("drawing: 1,000 take about 8:12\n" if told else "")

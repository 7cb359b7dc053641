"""Tables of the documentation are those of the files that they are made from."""

import csv

import pytest


@pytest.fixture
def make_reports(docs_script):
    return docs_script("make_reports")


def test_pages_have_the_tables_of_the_reports(make_reports):
    for name, (page, _) in make_reports.EXCERPTS.items():
        text = (make_reports.DOCS / page).read_text("utf-8")
        table = make_reports.excerpt(name)
        assert make_reports.with_table(text, name, table) == text
        picture = f"images/{name}.png"
        assert picture in text
        assert (make_reports.DOCS / picture).is_file()


def test_reports_are_of_all_runs_and_all_are_finished(make_reports):
    for name in make_reports.EXCERPTS:
        with (make_reports.DATA / name / make_reports.RUNS_FILE).open() as file:
            runs = list(csv.DictReader(file))
        assert all(run["status"] == "finished" for run in runs), name
        cells = {(run["task"], run["algorithm"]) for run in runs}
        seeds = {run["seed"] for run in runs}
        assert len(runs) == len(cells) * len(seeds), name


def test_only_the_tables_of_a_section_are_taken(make_reports):
    report = "# T\n\n## One\n\n| a |\n| - |\n\nText.\n\n| b |\n\n## Two\n\n| c |\n"
    assert make_reports.table_of(report, "One") == "| a |\n| - |\n\n| b |"
    with pytest.raises(ValueError, match="no section 'Three'"):
        make_reports.table_of(report, "Three")


def test_a_report_is_copied_whole(make_reports, tmp_path, monkeypatch):
    source, docs = tmp_path / "runs", tmp_path / "docs"
    source.mkdir()
    (docs / "images").mkdir(parents=True)
    for file in (
        make_reports.PAGE_FILE,
        make_reports.RUNS_FILE,
        make_reports.CURVES_FILE,
    ):
        (source / file).write_text(file)
    monkeypatch.setattr(make_reports, "DOCS", docs)
    monkeypatch.setattr(make_reports, "DATA", docs / "data")
    make_reports.add("classic", source)
    assert (docs / "data" / "classic" / "report.md").read_text() == "report.md"
    assert (docs / "data" / "classic" / "report.csv").read_text() == "report.csv"
    assert (docs / "images" / "classic.png").read_text() == "report.png"


def test_the_page_of_speeds_has_the_tables_of_the_measurements(docs_script):
    make_performance = docs_script("make_performance")
    page = make_performance.PAGE.read_text("utf-8")
    tables = make_performance.tables()
    assert {"halfcheetah", "update_cost", "against_kfac_jax"} <= tables.keys()
    for name, table in tables.items():
        assert make_performance.with_table(page, name, table) == page


@pytest.mark.parametrize(
    ("bar", "measured", "at_least", "met"),
    [
        (2.0, 1.99, False, True),
        (2.0, 2.01, False, False),
        (2.0, 2.004, False, True),  # It is 2.00 that is shown.
        (2.0, 2.01, True, True),
        (2.0, 1.99, True, False),
    ],
)
def test_a_goal_is_a_least_or_a_most(docs_script, bar, measured, at_least, met):
    goals = docs_script("make_performance").performance_goals
    assert goals.Goal("speed", bar, measured, at_least).met is met


def test_a_goal_that_is_missed_is_seen(docs_script, monkeypatch):
    goals = docs_script("make_performance").performance_goals
    missed = goals.Goal("speed", 2.0, 1.0, at_least=True)
    monkeypatch.setattr(goals, "goals", lambda _: [missed, missed._replace(bar=1.0)])
    rows = goals.table(dict).splitlines()[2:]
    assert rows == [
        "| speed | ≥ 2.00 | 1.00 | **no** |",
        "| speed | ≥ 1.00 | 1.00 | yes |",
    ]


def test_the_budget_of_pong_adds_up(docs_script):
    def document(**means):
        return {"phases": {name: {"mean": mean} for name, mean in means.items()}}

    acktr = document(curvature=40.0, inverses=8.0, step=23.0, total=0.0)
    a2c = document(step=3.0, total=92.0)
    table = docs_script("make_performance").pong_budget.table(acktr, a2c)
    for row in [
        "| what its step takes longer | 20.0 |",
        "| together | 68.0 |",
        "| allowed, for 0.92 of A2C's speed | 8.0 |",
        "| as they are | 0.57 |",  # 92 / 160
        "| half as often | 0.68 |",  # 92 / 136
        "| a quarter as often | 0.74 |",  # 92 / 124
    ]:
        assert row in table


def test_the_page_of_settings_has_the_tables_of_the_measurements(docs_script):
    make_settings = docs_script("make_kfac_settings")
    page = (make_settings.DOCS / "kfac_settings.md").read_text("utf-8")
    tables = make_settings.tables(make_settings.DOCS)
    assert tables
    for name, table in tables.items():
        assert make_settings.with_table(page, name, table) == page

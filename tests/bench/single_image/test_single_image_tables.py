"""Tables of rows, also in the layouts of papers."""

import io

from rich.console import Console

from bench import published, single_image_tables


def test_published_tables_are_complete() -> None:
    measures = set(single_image_tables.VIEWS | single_image_tables.SHAPE)
    for tables in published.TABLES.values():
        for table in tables:
            assert table.source and (table.rows or "not included" in table.source)
            assert all(len(figures) == len(table.columns) for figures in table.rows.values())
            assert {ours for ours, _ in table.columns.values()} <= measures
    harmony = published.TABLES["harmonyview"][1].rows
    assert harmony["SyncDreamer"] == (0.0261, 0.5421) and harmony["HarmonyView"] == (0.0187, 0.6401)


def test_cd_scores_are_ratios_of_means_over_objects() -> None:
    rows = [
        {
            "object": name,
            "method": "m",
            "kind": "views",
            "pixels": 256,
            "psnr": psnr,
            "cd_distance": d,
            "cd_variance": v,
        }
        for name, psnr, d, v in (("a", 20.0, 1.0, 1.0), ("b", 22.0, 2.0, 4.0))
    ]
    (table,) = single_image_tables.tables(rows, by_box=False)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["cd_score"] == ["1.000", "0.500", "0.600", "0.500", "1.000"]
    assert cells["psnr"] == ["20.00", "22.00", "21.00 ± 1.00", "20.00", "22.00"]
    console = Console(width=200, file=io.StringIO())
    for shown in single_image_tables.published_tables(rows, published.TABLES["harmonyview"], by_box=False):
        console.print(shown)
    lines = [[cell.strip() for cell in line.split("|")] for line in console.file.getvalue().splitlines()]
    assert ["", "HarmonyView (published)", "", "20.69", "0.825", "0.133", "1.945", "0.792", ""] in lines
    assert ["", "**m**", "2", "21.00 ± 1.00", "", "", "", "0.600", ""] in lines


def test_views_that_do_not_vary_have_no_cd_score() -> None:
    plain = {"method": "m", "kind": "views", "pixels": 256, "psnr": 20.0}
    terms = [(1.0, 1e-12), (2.0, 4.0)]
    rows = [{**plain, "object": f"{d}", "cd_distance": d, "cd_variance": v} for d, v in terms]
    (table,) = single_image_tables.tables(rows, by_box=False)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["cd_score"] == ["", "0.500", "0.750", "0.500", "0.500"]  # a ratio of means over all of them
    (table,) = single_image_tables.tables(rows[:1], by_box=False)
    assert "cd_score" not in [column.header for column in table.columns]
    assert table.title == "Novel views"  # no row has contextual distances


def test_a_paper_without_numbers_shows_ours() -> None:
    row = {"object": "a", "method": "m", "kind": "mesh", "pixels": 256, "psnr": 20.0, "clip_to_picture": 0.8}
    for rows, line in (([row], ["**m**", "1", "0.800", "", "20.00", ""]), ([], ["nothing measured", *[""] * 5])):
        (table,) = single_image_tables.published_tables(rows, published.TABLES["hifi123"], by_box=False)
        assert [next(iter(column.cells)) for column in table.columns] == line
        assert "own figures are not included" in str(table.title)

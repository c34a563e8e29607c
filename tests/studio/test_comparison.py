"""Several runs compared: differences, repeats with confidence intervals, options."""

import json
from pathlib import Path

import pytest
from helpers.pages import LIMIT, Page, check_is_offline
from helpers.run_folders import METRICS, make_run

from liftstudio.cli.command_line import BAD_INPUT, main
from liftstudio.studio.report.comparison import difference_interval, interval, repeats
from liftstudio.studio.report.record import read_record


def measured(psnr: float, chamfer: float = 0.02) -> dict:
    metrics = json.loads(json.dumps(METRICS))
    metrics["test"]["training"]["psnr"], metrics["mesh"]["chamfer"] = psnr, chamfer
    return metrics


def test_intervals() -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2, 4.3027 / 3**0.5), abs=1e-3)  # t of 2 degrees of freedom
    assert interval([1.0, 1.0]) == (1, 0)
    difference, half = difference_interval([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert (difference, half) == pytest.approx((1, 2.7764 * (2 / 3) ** 0.5), abs=1e-3)  # t of 4
    assert difference_interval([2.0, 2.0], [1.0, 1.0]) == (1, 0)
    assert difference_interval([0.7, 0.7, 0.7], [0.7, 0.7]) == (0, 0) and interval([0.7, 0.7, 0.7]) == (0.7, 0)


def test_runs_side_by_side(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        make_run(here / "runs", f"seed={seed}", f"system.light.lobes={lobes}", tag=f"{lobes}-{seed}", metrics=metrics)
        for lobes, seed, metrics in (
            (24, 0, measured(20.0)),
            (24, 1, measured(22.0, 0.03)),
            (24, 2, measured(21.0)),
            (12, 0, measured(19.0)),
            (12, 1, {}),
        )
    ]
    assert main(["compare", *(str(run.path) for run in runs)]) == 0
    assert "comparison: compare.html" in capsys.readouterr().out
    page = Page(Path("compare.html"))
    check_is_offline(page, here)
    assert Path("compare.html").stat().st_size < LIMIT and page.count("iframe") == 5
    for text in (
        "5 runs compared",
        "PSNR ↑ 20 dB 22 dB +2 dB 21 dB +1 dB 19 dB -1 dB -",
        "Chamfer distance ↓ 0.02 0.03 +0.01 0.02 ±0 0.02 ±0 -",
        "F-score at 0.01 ↑",
        "sv3d-masked-sds/24-0, sv3d-masked-sds/24-1, sv3d-masked-sds/24-2",
        "PSNR ↑ 21 dB ± 2.5 -",
        "system.light.lobes 24 24 24 12 12",
        "seed 0 1 2 0 1",
    ):
        assert text in page.text, text
    classes = [own.get("class") for tag, own in page.tags if tag == "span"]
    assert classes.count("better") == 2 and classes.count("worse") == 2


def test_what_is_a_repeat(here: Path) -> None:
    overrides = (["seed=0"], ["seed=0"], ["seed=3"], ["seed=4", "views.seed=7"], ["seed=5", "views.steps=3"])
    records = [read_record(make_run(here / "runs", *own, tag=str(i))) for i, own in enumerate(overrides)]
    assert repeats(records) == [[0, 2, 3]]


def test_a_comparison_leads_to_reports_and_escapes(here: Path) -> None:
    evil = "<script>window.hacked=1</script>"
    first, second = (make_run(here / "runs", f"seed={s}", tag=f"a{s}", prompt=evil) for s in (0, 1))
    assert main(["report", str(first.path)]) == 0
    assert main(["compare", str(first.path), str(second.config), "--out", "deep/er/page.html"]) == 0
    page = Page(Path("deep/er/page.html"))
    links = [address for tag, address in page.addresses() if tag == "a" and not address.startswith("#")]
    assert set(links) == {"../../runs/sv3d-masked-sds/a0/report.html"}
    assert (Path("deep/er") / links[0]).is_file() and page.count("script") == 5


def test_bad_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = (str(make_run(here / "runs", tag=tag).path) for tag in "ab")
    for words, message in (
        ([run], "expected at least two runs"),
        ([run, other, run], "a: given twice"),
        ([run, "nothing"], "nothing: expected the config.yaml of a run folder"),
        ([run, other, "--out", "photo.png"], "--out photo.png: expected the name of an HTML file"),
    ):
        assert main(["compare", *words]) == BAD_INPUT
        assert message in capsys.readouterr().err
    assert not Path("compare.html").exists() and not Path("photo.png").exists()

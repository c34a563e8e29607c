"""What the live viewer costs a step of a run while no browser shows it: `python -m bench.viewer`."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from bench.timing import run_seconds
from liftstudio.cli.view import HOST, PORT
from liftstudio.core.assets import find_config, input_path
from liftstudio.core.events import StageStep
from liftstudio.run.config import load_run_config
from liftstudio.run.run import Run, load_inputs, make_fabric
from liftstudio.studio.viewer.live import Live
from liftstudio.studio.viewer.window import Window


def main() -> None:
    """Do blocks of steps without and with the viewer in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", default="coarse", help="stage of reconstruct-views")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5, help="of a block")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"data.path={input_path('assets/demo/mario')}",
            "views.held_out=[]",
            f"runs_dir={folder}",
            "device=cpu",
        ]
        config = load_run_config(find_config(Path("reconstruct-views")), words)
        run = Run(config, load_inputs(config, None), make_fabric("cpu", None))
    run.system.enter(options.stage)
    done, hearing = 0, list[float]()
    seconds: dict[bool, list[float]] = {False: [], True: []}

    def step(live: Live | None) -> None:
        nonlocal done
        losses = run.system.step(done)
        done += 1
        if live is not None:
            event = StageStep(options.stage, done, run.system.stages[options.stage], losses, 0.0, run)
            begin = time.perf_counter()
            live.hear(event)
            hearing.append(time.perf_counter() - begin)

    for _ in range(options.steps):  # the first compile
        step(None)
    for _ in range(options.rounds):
        for shown in seconds:
            window = Window(HOST, PORT, steerable=True) if shown else None
            live = Live(window) if window else None
            seconds[shown] += [run_seconds(lambda live=live: step(live)) for _ in range(options.steps)]  # type: ignore[misc]
            if window:
                window.close()
    without, shown_too = (statistics.median(seconds[shown]) for shown in (False, True))
    heard = statistics.median(hearing)
    Console(width=120).print(
        f"a step takes {1e3 * without:.1f} ms without viewer, {1e3 * shown_too:.1f} ms with it: "
        f"ratio {shown_too / without:.3f}; the viewer's own work is {1e6 * heard:.0f} us of it"
    )


if __name__ == "__main__":
    main()

"""Count the cost of a request on each path: `python -m bench.cost`.

    python -m bench.cost [--only create] [--instructions] [--functions 20] [--write]

Python calls and C calls are counted with the profile hook of the interpreter, instructions with callgrind. While a
service is measured, its clocks stand still and no timer fires, so nothing runs but the requests. `--write` puts the
costs into bench/cost/costs.json and docs/performance.md; with callgrind on PATH, instructions are counted too.
"""

import argparse
import sys

from bench.cost import calls, instructions, table
from bench.cost.calls import Cost
from bench.cost.paths import PATHS, Path
from bench.running import redis_server


def main() -> None:
    """Measure, print, and write the costs with `--write`."""
    options = _options()
    if options.instructions and not instructions.is_installed():
        sys.exit("valgrind is not installed: apt-get install valgrind")
    paths = [path for path in PATHS if options.only in path.name]
    with redis_server() as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        measured = dict(calls.measure(paths, url))
        costs = {path.name: measured[path] for path in paths}
    if options.instructions or (options.write and instructions.is_installed()):
        _add_instructions(costs, paths)
    print(table.render(costs))
    for name, cost in costs.items():
        _print_functions(name, cost, options.functions)
    if options.write:
        table.save(costs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", default="", help="only paths with this in their names")
    parser.add_argument("--instructions", action="store_true", help="count instructions too, which takes minutes")
    parser.add_argument("--functions", type=int, default=0, help="list this many functions with the most calls")
    parser.add_argument("--write", action="store_true", help="write the costs into the table and the documentation")
    return parser.parse_args()


def _add_instructions(costs: dict[str, Cost], paths: list[Path]) -> None:
    for path, count in instructions.measure(paths):
        costs[path.name] = costs[path.name]._replace(instructions=count)


def _print_functions(name: str, cost: Cost, most: int) -> None:
    if most:
        print(f"\n{name}")
    for function, count in sorted(cost.functions.items(), key=lambda item: -item[1])[:most]:
        print(f"{count:8.2f}  {function}")


if __name__ == "__main__":
    main()

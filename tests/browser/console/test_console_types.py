"""The scripts of the console match the types in their comments, which TypeScript checks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from guidsvc.api.console.console_handlers import STATIC
from tests.support.node_packages import package

LIBRARIES = {
    "preact.d.ts": """\
export function html(parts: TemplateStringsArray, ...values: any[]): any;
export function render(tree: any, place: Element): void;
export function useState<T>(initial: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
export function useEffect(effect: () => unknown, dependencies?: unknown[]): void;
export function useLayoutEffect(effect: () => unknown, dependencies?: unknown[]): void;
export function useRef<T>(initial: T): { current: T };
""",
    "uplot.d.ts": "export const uPlot: any;\n",
}
OPTIONS = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--target", "es2023", "--module", "esnext"]
OPTIONS += ["--moduleResolution", "bundler", "--lib", "es2023,dom,dom.iterable,dom.asynciterable"]


@pytest.mark.timeout(180)
def test_typescript_finds_no_fault_in_the_scripts(tmp_path: Path) -> None:
    for script in STATIC.glob("*.js"):
        shutil.copy(script, tmp_path)
    for name, text in LIBRARIES.items():
        (tmp_path / name).write_text(text)
    compiler = package("typescript") / "bin" / "tsc"
    scripts = [script.name for script in tmp_path.glob("*.js")]
    result = subprocess.run(
        ["node", str(compiler), *OPTIONS, *scripts], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert result.stdout == ""
    assert result.returncode == 0

"""TypeScript types that are generated from `/openapi.json`, and a program that uses them."""

import re
from pathlib import Path

import pytest

from tests.support import node_packages
from tests.support.backing_servers import ROOT, service

pytestmark = pytest.mark.timeout(180)

USE = """
import type { components, operations, paths } from "./types";

type Schemas = components["schemas"];

// Members with a default are optional.
export const operation: Schemas["Operation"] = { user: "A" };
export const rotation: Schemas["Rotation"] = {};
export const batch: paths["/guid:batch"]["post"]["requestBody"]["content"]["application/json"] = {
  operations: [operation, { op: "get", guid: "9094E4C980C74043A4B586B420E69DDF" }],
};
export const query: operations["listGuids"]["parameters"]["query"] = {};

type Read = operations["getGuid"]["responses"];
export const user = (record: Read[200]["content"]["application/json"]): string => record.user;
export const until = (problem: Read[410]["content"]["application/problem+json"]): string => problem.renewable_until;
export const code: Read[404]["content"]["application/problem+json"]["code"] = "not-found";

// @ts-expect-error A record has no other member.
export const colour = (record: Schemas["GuidRecord"]): unknown => record.colour;
// @ts-expect-error To create a record, a user is required.
export const creation: Schemas["Creation"] = {};
// @ts-expect-error There is no such operation.
export const unknown: Schemas["Operation"] = { op: "rename" };
"""


@pytest.mark.parametrize("access", ["off", "keys"])
def test_generated_types_are_accepted_strictly(tmp_path: Path, access: str) -> None:
    with service(tmp_path, "--access", access) as running:
        generator = node_packages.package("openapi-typescript") / "bin" / "cli.js"
        node_packages.run(tmp_path, generator, f"{running.url}/openapi.json", "--output", "types.ts")
    (tmp_path / "use.ts").write_text(USE)

    compiler = node_packages.package("typescript") / "bin" / "tsc"
    node_packages.run(tmp_path, compiler, "--noEmit", "--strict", "--skipLibCheck", "false", "use.ts", "types.ts")


EXAMPLES = re.findall(
    r"```typescript\n(.*?)```\n```text\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL
)


def test_examples_of_the_guide_compile_and_run(tmp_path: Path) -> None:
    """They compile strictly with the types that the guide generates, and Node.js runs them unchanged."""
    assert len(EXAMPLES) == (ROOT / "docs" / "clients.md").read_text().count("```typescript") > 0
    compiler = node_packages.package("typescript") / "bin" / "tsc"
    with service(tmp_path) as running:
        generator = node_packages.package("openapi-typescript") / "bin" / "cli.js"
        node_packages.run(tmp_path, generator, f"{running.url}/openapi.json", "--output", "types.ts")
        for text, promised in EXAMPLES:
            assert "http://127.0.0.1:8888" in text
            (tmp_path / "example.ts").write_text(text.replace("http://127.0.0.1:8888", running.url))
            options = ["--strict", "--target", "es2022", "--module", "esnext", "--lib", "es2022,dom"]
            node_packages.run(tmp_path, compiler, *options, "example.ts", "types.ts")
            (tmp_path / "example.js").rename(tmp_path / "example.mjs")
            assert node_packages.run(tmp_path, tmp_path / "example.mjs") == promised

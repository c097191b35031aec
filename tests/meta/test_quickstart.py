"""docs/quickstart.md matches the service: every example in it is run."""

import re
from pathlib import Path

from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, service

TEXT = (ROOT / "docs" / "quickstart.md").read_text()
EXAMPLES = re.findall(r"```sh\n(.*?)\n```\n```json\n(.*?)\n```", TEXT, re.DOTALL)


def test_quickstart_examples_answer_as_they_say(tmp_path: Path) -> None:
    assert len(EXAMPLES) == TEXT.count("```sh\n") == TEXT.count("```") / 4
    with service(tmp_path) as running:
        for commands, promised in EXAMPLES:
            texts = [curl.run(line, running.port, tmp_path).text.rstrip("\n") for line in commands.splitlines()]
            printed = "\n".join(text for text in texts if text)
            assert re.fullmatch(curl.pattern(promised), printed), (commands, printed)

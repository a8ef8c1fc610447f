"""The documents: their commands parse, their tables are today's, and the two READMEs say the same.

`bash run.sh check-docs` also runs the commands.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import zoo
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))

import check
import make_flags
import make_paddle_operators
import make_parity_plot
import make_readme
import measured

import models

ROOT = Path(__file__).resolve().parents[2]

READMES = ("README.md", "README_cn.md")


@pytest.mark.parametrize("document", check.documents(), ids=lambda path: path.name)
def test_commands_parse(document):
    assert list(check.problems(document)) == []


def anchors(document: Path) -> set[str]:
    """What links to a document's headings end in, as GitHub makes it of them; of equal headings the first one."""
    prose = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", check.documents(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_links_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@pytest.mark.parametrize("document", [make_flags.FLAGS, make_flags.OTHER_PROGRAMS])
def test_flags_are_todays(document):
    assert (ROOT / document).read_text(encoding="utf-8") == make_flags.generated(document), (
        "run: python docs/make_flags.py"
    )


@pytest.mark.parametrize("readme", READMES)
def test_tables_and_numbers_are_todays(readme):
    assert (ROOT / readme).read_text(encoding="utf-8") == make_readme.generated(readme), (
        "run: python docs/make_readme.py"
    )


def test_every_network_is_of_one_kind():
    modules = [module for *_, modules in make_readme.KINDS for module in modules.split()]
    assert sorted(modules) == sorted(models.FAMILIES)


def test_the_table_of_operators_is_todays():
    text = make_paddle_operators.FILE.read_text(encoding="utf-8")
    assert make_paddle_operators.BEGIN in text and text == make_paddle_operators.with_table(text), (
        "run: python docs/make_paddle_operators.py"
    )


def test_figures_are_read_from_tables(monkeypatch, tmp_path):
    (tmp_path / "benchmarks.md").write_text(
        "<!-- inference -->\n| | predict.py | eager | timm | share |\n|---|--:|--:|--:|--:|\n"
        "| Net, float32, batch 1 | 30.0 | 10.0 | 20.0 | 1.00 |\n| Net, float32, batch 8 | 1.0 | 9.0 | | 0.11 |\n"
        "<!-- /inference -->\n<!-- paddle_inference -->\n"
        "| | predict.py | paddle | predict.py over Paddle |\n|---|---|---|---|\n"
        "| Net, batch 1 | 12.0 | 8.0 | 1.51 |\n<!-- /paddle_inference -->\n\n"
        "| | train.py | bare loop | ratio |\n|---|---|---|---|\n| Net, NHWC, float32 | 7.0 | 7.1 | 0.98 |\n",
        encoding="utf-8",
    )
    (tmp_path / "reader.md").write_text(
        "| | median | ours is faster by |\n|---|---|---|\n"
        "| ours, with nvImageCodec | 8 | 1 |\n| torchvision | 4 | 2.1 |\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(measured, "DOCS", tmp_path)
    assert [tuple(speed) for speed in measured.speeds()] == [
        ("predict.py", "Net", "30.0", "20.0", "1.50"),
        ("exported", "Net", "12.0", "8.0", "1.51"),
        ("train.py", "Net", "7.0", "7.1", "0.98"),
        ("reader.py", None, "8", "4", "2.1"),
    ]


def test_the_index_names_every_document():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    others = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in others if f"]({name}" not in index} == set()


def test_the_picture_of_parity_is_todays():
    figures = [make_parity_plot.networks(titles) for _, titles in make_parity_plot.NETWORKS]
    assert sum(map(len, figures)) == sum(len(zoo.entries(kind)) for kind in zoo.KINDS)
    with Image.open(make_parity_plot.PICTURE) as picture:
        assert picture.info["Source"] == make_parity_plot.source(), "run: python docs/make_parity_plot.py"


def test_the_readmes_link_the_same_documents():
    def links(readme: str) -> set[str]:
        targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / readme).read_text(encoding="utf-8"))
        return set(targets) - set(READMES)

    assert links("README.md") == links("README_cn.md")


def test_the_readmes_have_the_same_sections_and_code():
    def outline(readme: str) -> tuple[list[int], list[tuple[str, str, list[str]]]]:
        text = (ROOT / readme).read_text(encoding="utf-8")
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        headings = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]
        return headings, [
            (block.language, block.reason, check.commands(block.text))
            for block in check.blocks(ROOT / readme)
            if block.language != "text"
        ]

    english, chinese = map(outline, READMES)
    assert english == chinese


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("python train.py --modle=ResNet50", "did you mean --model"),
        ("python train.py --model=ResNet5O", "unknown network"),
        ("python -m torch.distributed.run --nproc_per_node=2 train.py --lrr=1", "unknown flag --lrr"),
        ("bash run.sh train ResNet5O", "no recipe ResNet5O"),
        ("bash run.sh eval --pretrained_model=w --lr=1", "unknown flag --lr"),
        ("bash run.sh trian", "no trian"),
        ("python trian.py", "no trian.py"),
        ("echo 'half", "unexpected EOF"),
    ],
)
def test_a_wrong_command_is_found(command, wrong):
    assert wrong in check.parse(command)


@pytest.mark.parametrize(
    "command",
    [
        "OMP_NUM_THREADS=1 python eval.py --model=ResNet50 --pretrained_model=w",
        "bash run.sh train ResNet50_vd --lr=0.1",
        "python benchmarks/reader.py FOLDER",
        "curl -O https://example.com/file",
    ],
)
def test_a_right_command_passes(command):
    assert check.parse(command) is None


def test_blocks_and_commands(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "text\n\n<!-- check-docs: needs a GPU -->\n```bash\npython a.py \\\n    --b  # c\n\n# d\ne\n```\n"
        "```python\nf = 1\n```\n",
        encoding="utf-8",
    )
    first, second = check.blocks(document)
    assert (first.line, first.language, first.reason) == (5, "bash", "needs a GPU")
    assert check.commands(first.text) == ["python a.py --b", "e"]
    assert (second.line, second.language, second.reason, second.text) == (12, "python", "", "f = 1\n")


def test_a_block_that_fails_is_told(tmp_path):
    def block(text: str, language: str = "bash") -> check.Block:
        return check.Block(ROOT / "README.md", 1, language, text, "")

    assert check.run(block("true\necho done > file\n"), tmp_path) is None
    assert (tmp_path / "file").read_text() == "done\n"
    assert "exit code 3" in check.run(block("(exit 3)\ntrue\n"), tmp_path)
    assert "ZeroDivisionError" in check.run(block("1 / 0\n", "python"), tmp_path)


def test_what_cannot_run_here_is_parsed_or_skipped():
    text = "pip install nothing\npython train.py --model=ResNet18\nfalse\n"
    done = list(check.check(check.Block(ROOT / "README.md", 1, "bash", text, "needs a GPU"), ROOT))
    assert [how for how, _, _ in done] == ["skipped", "parsed", "skipped"]
    assert {note for _, _, note in done} == {"needs a GPU"}

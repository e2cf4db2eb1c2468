"""A table that a cell returns is a table on the site, not a paragraph of bars."""

from pathlib import Path

import yaml
from markdown_it.renderer import RendererHTML
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from dino_tutorial.plots import Table

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_reads_tables_in_what_a_cell_returns():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    kind = config["sphinx"]["config"]["nb_render_markdown_format"]
    parser = create_md_parser(MdParserConfig(commonmark_only=kind == "commonmark"), RendererHTML)
    table = Table(["in %", "mIoU"], [["DINO", "51.0"], ["pixels", "6.3"]])
    assert parser.render(table._repr_markdown_()).count("<tr>") == 3

"""The card beside published weights: what they are, what they reach, how to make them again."""

CARD = """\
# {name}

The backbone that `{method}` keeps after {steps} steps on `{data}`, preset `{preset}`, seed {seed}:
{parameters:,} parameters. Made by

    {command}
{measured}
For the book's chapters and for coursework: small, trained on few or rendered pictures, no stand-in
for released weights. `dino_tutorial.load_run(folder).encoder()` loads it.
"""
MEASURED = """
| k-NN: bank of {bank}, {queries} queries, k = {k}, T = {temperature} | accuracy |
|---|---|
| these features | {knn_top1:.1%} |
| untrained encoder | {knn_random_init:.1%} |
| raw pixels | {knn_raw_pixels:.1%} |
| colour histogram | {knn_color_histogram:.1%} |
"""


def card(name: str, summary: dict, command: str) -> str:
    """Markdown for the weights of one run.

    Args:
        name: of the folder that holds them.
        summary: the run's ``summary.json``; without labels it has no k-NN to show.
        command: the command that trains them again.
    """
    measured = MEASURED.format(**summary) if "knn_top1" in summary else ""
    return CARD.format(name=name, command=command, measured=measured, **summary)

"""From wrong labels to a retrained network: found, reviewed, corrected, measured.

Two teams label the same four kinds of signal; one of them is careless in every fourth case.
`diagnose` says that labels are wrong and whose; a sheet names the rows to look at. A
person fills it in (here the truth is known, and plays the person), and the network is trained
again on the corrected labels. What that is worth is measured on rows with true labels.

    python examples/label_audit.py
    python examples/label_audit.py --wrong 0        the same with every label right
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import gendebug_torch as gd
from gendebug_torch.labels import audit_sheet, cross_fitted_logits, label_ranking, read_review

CLASSES = ("sine", "square", "ramp", "noise")
CENTERS = torch.tensor([[2.0, 0, 0, 1], [0, 2.0, 0, 1], [0, 0, 2.0, -1], [1, 1, 1, -2.0]])


def signals(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Six numbers of each signal, and its true class."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, len(CLASSES), (n,), generator=generator)
    x = CENTERS[truth] + 0.55 * torch.randn(n, 4, generator=generator)
    return torch.cat([x, torch.randn(n, 2, generator=generator)], 1), truth


def labeled(truth: Tensor, share: float, seed: int) -> tuple[Tensor, list[str]]:
    """Labels as two teams gave them: the second one slips in a share of its rows."""
    generator = torch.Generator().manual_seed(seed)
    second = torch.rand(len(truth), generator=generator) < 0.5
    slips = second & (torch.rand(len(truth), generator=generator) < share)
    other = (truth + torch.randint(1, 4, truth.shape, generator=generator)) % len(CLASSES)
    return torch.where(slips, other, truth), ["second" if one else "first" for one in second]


def trained(x: Tensor, targets: Tensor, epochs: int) -> nn.Module:
    """A small network."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, len(CLASSES)))
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), targets[rows]).backward()
            optimizer.step()
    return network.eval()


def reviewed(x: Tensor, given: Tensor, truth: Tensor, size: int, out: Path) -> Tensor:
    """The labels after a person has filled in the sheet of the most suspicious rows."""
    probs = cross_fitted_logits(x, given).softmax(1)
    sheet = audit_sheet(label_ranking(probs, given), names=CLASSES, size=size)
    rows = sheet["row"].astype(int).tolist()
    sheet["verdict"] = [
        "right" if truth[row] == given[row] else CLASSES[int(truth[row])] for row in rows
    ]
    sheet.to_csv(out / "sheet.csv", index=False)
    review = read_review(out / "sheet.csv", given, names=CLASSES)
    print(f"{len(review.corrections)} of {len(rows)} reviewed labels were wrong.")
    corrected = given.clone()
    for row, name in review.corrections.items():
        corrected[row] = CLASSES.index(name)
    return corrected


def main(arguments: list[str] | None = None) -> gd.Diagnosis:
    """Train on the labels as they are, diagnose, review, train again, and measure."""
    options = parse(arguments)
    out = Path(options.out)
    x, truth = signals(3000, 0)
    given, team = labeled(truth, options.wrong, 1)
    network = trained(x, given, options.epochs)
    schema = gd.Schema(source="team", classes=CLASSES)
    train = gd.Records(x, given, metadata=pd.DataFrame({"team": team}), schema=schema, name="train")
    diagnosis = gd.diagnose(network, train=train, only="labels")
    diagnosis.write(out, title="Labels of two teams")
    print(diagnosis, end="\n\n")

    corrected = reviewed(x, given, truth, options.size, out)
    after = trained(x, corrected, options.epochs)
    new, right = signals(4000, 2)
    for name, fitted in (("labels as given", network), ("labels reviewed", after)):
        accuracy = (fitted(new).argmax(1) == right).float().mean()
        print(f"accuracy with {name}: {accuracy:.1%}")
    found = next((f for f in diagnosis.findings if f.evidence is not None), None)
    if found is not None:
        found.evidence.plot().get_figure().savefig(out / "picture.png", dpi=110)
    print(f"Report: {out / 'report.html'}")
    return diagnosis


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wrong", type=float, default=0.25, help="share of the second team")
    parser.add_argument("--size", type=int, default=250, help="rows that a person looks at")
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    parser.add_argument("--out", default="runs/labels", help="directory for report and sheet")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

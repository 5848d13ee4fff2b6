"""The recipes of the README run as they stand."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.contract.plants_modality import sides

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


def loader(seed, n=600):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator)
    y = (torch.rand(n, generator=generator) < (2 * x[:, 0] - x[:, 1]).sigmoid()).long()
    return DataLoader(TensorDataset(x, y), batch_size=64)


def module():
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))

        def forward(self, x):
            return self.network(x)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    return Module()


def test_the_recipes_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    trained = module()
    names = {
        "module": trained,
        "model": trained.network,
        "train_loader": loader(0),
        "validation_loader": loader(1),
    }
    names["production_loader"] = loader(2)
    given = sides(3, lambda x: x.flip(1), n=400)
    names["cnn"] = given["model"]
    for name, prefix in (
        ("validation", ("images", "labels")),
        ("production", ("served", "served_labels")),
    ):
        names[prefix[0]], names[prefix[1]] = given[name].features, given[name].targets
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(tensorboard|GPU|workers|log_every).*")
        for block in blocks("python"):
            exec(block, names)
    assert "red and blue are exchanged" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "runs" / "diagnosis" / "report.html").exists()
    assert (tmp_path / "runs" / "calibrated").is_dir()


def test_the_schema_is_one(tmp_path):
    from gendebug_torch import Schema

    (schema,) = blocks("yaml")
    (tmp_path / "schema.yaml").write_text(schema)
    assert Schema.from_file(tmp_path / "schema.yaml").threshold == 0.3


def test_every_command_exists_and_every_file_is_there(capsys):
    from gendebug_torch.cli import main

    for command in sorted(set(re.findall(r"^gendebug (\w+)", "\n".join(blocks("sh")), re.M))):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0, command
        capsys.readouterr()
    for path in re.findall(r"\]\(((?!http)[^)]+)\)|^(scripts/\w+)", README.read_text(), re.M):
        assert (README.parent / (path[0] or path[1])).exists(), path

import warnings

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from gendebug_torch import attribute
from gendebug_torch.attribution import plots
from gendebug_torch.checks.evidence import axes
from gendebug_torch.errors import InputError
from tests.attribution_cases import network, rows


@pytest.mark.parametrize("d", [1, 5, 500])
@pytest.mark.parametrize("n", [1, 40])
def test_tables_draw_at_any_width(n, d):
    made = attribute(network(d=d), rows(n, d))
    for draw in (plots.beeswarm, lambda found, ax: plots.waterfall(found, 0, ax), type(made).plot):
        ax = axes()
        assert draw(made, ax) is ax
        assert ax.get_title()
        assert ax.get_xlabel()
        ax.figure.canvas.draw()
        assert len(ax.get_yticks()) <= 15


def test_a_waterfall_ends_at_the_output():
    made = attribute(network(), rows(4), steps=200)
    ax = plots.waterfall(made, 2, top=3)
    last = ax.patches[-1]
    ends = {round(last.get_x(), 3), round(last.get_x() + last.get_width(), 3)}
    assert any(abs(end - float(made.outputs[2])) < 0.02 for end in ends)
    assert ax.get_yticklabels()[0].get_text() == "2 other features"


def test_images_and_text():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    made = attribute(model, rows(2, 36).reshape(2, 1, 6, 6))
    ax = plots.heat_map(made, 1)
    assert len(ax.images) == 2
    assert "class" in ax.get_title()
    ax = plots.text(attribute(network(), rows(2)), 0, ["a", "$b$", "<c>", "d", "e"])
    ax.figure.canvas.draw()
    assert [t.get_text() for t in ax.texts][:1] == ["a"]


def test_bad_input_is_named():
    made = attribute(network(), rows(3))
    with pytest.raises(InputError, match="position below 3"):
        plots.waterfall(made, 3)
    with pytest.raises(InputError, match="images"):
        plots.heat_map(made, 0)
    layer = attribute(network(), rows(3), "LayerActivation", layer="body.0")
    with pytest.raises(InputError, match="know their inputs"):
        plots.beeswarm(layer)


def test_shap_draws_what_we_found():
    shap = pytest.importorskip("shap", reason="shap is in the extra `bench`")
    made = attribute(network(), rows(3), target=1)
    explanation = made.to_shap()
    assert isinstance(explanation, shap.Explanation)
    assert explanation.values.shape == (3, 5)
    assert torch.allclose(torch.from_numpy(explanation.base_values), made.base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for draw, drawn in [
            ("bar", explanation),
            ("beeswarm", explanation),
            ("heatmap", explanation),
            ("waterfall", explanation[0]),
        ]:
            getattr(shap.plots, draw)(drawn, show=False)
            plt.close("all")

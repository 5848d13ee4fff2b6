import warnings

import matplotlib.pyplot as plt
import pytest
import torch

from gendebug_torch import attribute
from gendebug_torch.attribution import plots
from gendebug_torch.checks.evidence import axes
from gendebug_torch.errors import InputError
from tests.attribution_cases import network, rows


@pytest.mark.parametrize("d", [1, 5, 500])
@pytest.mark.parametrize("n", [1, 40])
def test_tables_draw_at_any_width(n, d):
    made = attribute(network(d=d), rows(n, d))
    for draw in (plots.beeswarm, type(made).plot):
        ax = axes()
        assert draw(made, ax) is ax
        assert ax.get_title()
        assert ax.get_xlabel()
        ax.figure.canvas.draw()
        assert len(ax.get_yticks()) <= 15


def test_bad_input_is_named():
    layer = attribute(network(), rows(3), "LayerActivation", layer="body.0")
    with pytest.raises(InputError, match="with their inputs"):
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

"""What other tools say about the same validation and production rows, where they are installed."""

import importlib
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

# The issue of CleanVision that would name a fault of images.
_ISSUES = {
    "dark": "dark",
    "0..255": "light",
    "blurred": "blurry",
    "low resolution": "blurry",
    "zoomed": "blurry",
}
_CHANCE, _MOST_Z = 0.002, 3.09
_IMPORTS = {
    "CleanVision": "cleanvision",
    "cleanlab Datalab": "cleanlab.datalab.datalab",
    "deepchecks vision": "deepchecks.vision",
    "deepchecks nlp": "deepchecks.nlp",
    "domino": "domino",
    "sliceguard": "sliceguard",
}


def reasons() -> dict[str, str]:
    """Why peers do not run here, by name; empty of those that do."""
    found = {}
    for name, module in _IMPORTS.items():
        try:
            importlib.import_module(module)
        # Whatever an import raises is the reason.
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        else:
            found[name] = ""
    return found


def cleanvision_says(before: Tensor, after: Tensor, fault: str) -> dict[str, bool]:
    """Whether an issue is commoner in production than in validation, and the right one.

    CleanVision judges one folder; the shares that it flags on both sides are compared (two-sided
    z-test, p < 0.002 for each), which is more than it does by itself.

    Args:
        before: images of validation `[n, c, h, w]`, 0..1 where nothing is wrong.
        after: those of production.
        fault: name of the fault.
    """
    from cleanvision import Imagelab

    flagged = []
    for side in (before, after):
        with tempfile.TemporaryDirectory() as folder:
            pixels = (255 * side.clamp(0, 1)).round().byte().movedim(1, 3).numpy()
            for row, picture in enumerate(pixels):
                shown = picture[..., 0] if picture.shape[2] == 1 else picture
                Image.fromarray(shown).save(Path(folder) / f"{row:05}.png")
            lab = Imagelab(data_path=folder)
            lab.find_issues(n_jobs=1, verbose=False)
            issues = lab.issues.filter(regex="^is_.*_issue$")
        flagged.append(issues.to_numpy(dtype=float))
    names = [name[3:-6] for name in issues.columns]
    more = [
        name
        for i, name in enumerate(names)
        if abs(_z(flagged[0][:, i], flagged[1][:, i])) > _MOST_Z
    ]
    return {"alarm": bool(more), "named": _ISSUES.get(fault) in more}


def datalab_says(before: Tensor, after: Tensor) -> dict[str, bool]:
    """Whether Datalab finds that rows of validation and then of production are not exchangeable.

    It has no name for what happened, so that it names no fault.

    Args:
        before: embedding of validation `[n, e]`, that of the network.
        after: that of production.
    """
    from cleanlab import Datalab

    rows = np.concatenate([before.numpy(), after.numpy()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lab = Datalab(data={"row": np.arange(len(rows))}, verbosity=0)
        lab.find_issues(features=rows, issue_types={"non_iid": {}})
        p_value = lab.get_info("non_iid")["p-value"]
    return {"alarm": bool(p_value < _CHANCE), "named": False}


def _z(before: np.ndarray, after: np.ndarray) -> float:
    """Z of the difference of two shares."""
    share = (before.sum() + after.sum()) / (len(before) + len(after))
    error = np.sqrt(share * (1 - share) * (1 / len(before) + 1 / len(after)))
    return float((after.mean() - before.mean()) / error) if error > 0 else 0.0

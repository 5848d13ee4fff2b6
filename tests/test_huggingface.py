"""The network inside a `transformers.Trainer`: by its protocol, and by itself where it is there."""

import importlib.util
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gendebug_torch import Severity, collect
from gendebug_torch.callbacks.huggingface import TransformersMonitor, transformers_monitor
from gendebug_torch.errors import InputError, MissingExtraError

HERE = importlib.util.find_spec("transformers") is not None


class Classifier(nn.Module):
    """Takes features and labels, and gives a loss, as models of transformers do."""

    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 3)
        self.scale = scale

    def forward(self, features, labels=None):
        logits = self.last(self.first(features).mul(self.scale).relu())
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


class Wrapped(torch.optim.SGD):
    """An optimizer around another one, as Accelerate makes them."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, lr=0.0)
        self.optimizer = optimizer


def batch(seed=0):
    features = torch.randn(64, 6, generator=torch.Generator().manual_seed(seed))
    return {"features": features, "labels": (features[:, 0] > 0).long()}


def trained(monitor, model, steps=30, parameters=None, state=None):
    """The events of a Trainer, in their order."""
    optimizer = torch.optim.SGD(parameters or list(model.parameters()), lr=0.1)
    given = {"model": model, "optimizer": Wrapped(optimizer)}
    monitor.on_train_begin(None, state, None, **given)
    for step in range(steps):
        model(**batch(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    monitor.on_train_end(None, None, None, **given)
    return monitor


def test_a_layer_outside_the_optimizer_is_named_and_nothing_is_left_behind():
    model = Classifier()
    monitor = trained(TransformersMonitor(every=5), model, parameters=[*model.first.parameters()])
    assert monitor.findings[0].subject == "last"
    assert monitor.findings[0].numbers["kind"] == "not_in_optimizer"
    assert monitor.network.facts.start_loss == pytest.approx(1.1, abs=0.4)
    assert set(monitor.table()["layer"]) >= {"first", "last"}
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_a_sound_training_is_quiet_and_a_second_one_starts_anew():
    monitor = TransformersMonitor(every=5)
    for _ in range(2):
        trained(monitor, Classifier())
        assert not [f for f in monitor.findings if f.severity.level >= Severity.WARN.level]
        assert monitor.network.steps == 30


def test_after_a_failure_the_hooks_are_gone_and_what_was_seen_is_judged():
    model, monitor = Classifier(), TransformersMonitor()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail():
        with monitor:
            monitor.on_train_begin(None, None, None, model=model, optimizer=optimizer)
            model(**batch())["loss"].backward()
            optimizer.step()
            raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fail()
    assert monitor.network.steps == 1
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert not optimizer._optimizer_step_post_hooks


def test_a_resumed_run_counts_on_and_its_start_is_not_that_of_the_network():
    state = SimpleNamespace(global_step=700, log_history=[])
    monitor = trained(TransformersMonitor(every=5), Classifier(), state=state)
    # Beyond 64 samples of 5 steps their distance has doubled twice.
    assert (int(monitor.network.step[0]), monitor.network.steps) == (720, 720)
    assert monitor.network.facts.start_loss is None
    assert not [f for f in monitor.findings if f.severity.level >= Severity.WARN.level]


class Unlabeled(Classifier):
    """What a model is under label smoothing: the Trainer keeps the labels and makes the loss."""

    def forward(self, features, labels=None):
        logits = super().forward(features)["logits"]
        self.loss = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        return {"logits": logits}


def test_where_the_model_gives_no_loss_the_logged_one_is_held():
    model, monitor = Unlabeled(), TransformersMonitor(every=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor.on_train_begin(None, None, None, model=model, optimizer=optimizer)
    for step in range(60):
        model(**batch(step))
        model.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        monitor.on_log(None, None, None, logs={"loss": float(model.loss.detach())})
    monitor.on_train_end(None, None, None)
    facts = monitor.network.facts
    assert monitor.network.change.fell(0.1)
    assert facts.start_loss == pytest.approx(1.1, abs=0.4)
    assert facts.uniform_loss == pytest.approx(math.log(3))
    assert not [f for f in monitor.findings if f.severity.level >= Severity.WARN.level]


def test_the_log_of_a_trainer_gives_learning_curves():
    train = [{"step": step, "loss": 100.0 / step, "epoch": step / 20} for step in (10, 20, 30, 40)]
    evaluations = [{"step": step, "eval_loss": 0.1 * step, "epoch": step / 20} for step in (20, 40)]
    state = SimpleNamespace(global_step=0, log_history=[])
    monitor = trained(TransformersMonitor(), Classifier(), steps=2, state=state)
    with pytest.raises(InputError):
        monitor.curves  # noqa: B018
    end = {"step": 40, "epoch": 2.0, "train_runtime": 1.0, "train_loss": 3.0}
    state.log_history += [*train, *evaluations, end]
    curves = monitor.curves
    assert curves.val_loss[curves.val_loss.isfinite()].tolist() == pytest.approx([2.0, 4.0])
    assert 2.5 <= float(curves.train_loss[-1]) < 3.0


def test_what_cannot_be_watched_ends_no_training():
    monitor = TransformersMonitor()
    monitor.on_train_begin(None, None, None, model=nn.ReLU(), optimizer=None)
    assert monitor.findings[0].severity is Severity.ERRORED
    monitor.on_train_end(None, None, None)
    with pytest.raises(InputError, match="every"):
        TransformersMonitor(every=0)


@pytest.mark.skipif(HERE, reason="transformers is installed")
def test_without_transformers_the_extra_is_named():
    with pytest.raises(MissingExtraError, match="pip install transformers"):
        transformers_monitor()


REAL = pytest.mark.skipif(not HERE, reason="transformers is not installed (extra `hf`)")
QUIET = {"report_to": "none", "use_cpu": True, "disable_tqdm": True}


@REAL
def test_a_trainer_of_transformers(tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{name: value[i] for name, value in batch().items()} for i in range(64)]
    settings = {"max_steps": 30, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
    arguments = TrainingArguments(str(tmp_path), save_strategy="no", **settings, **QUIET)
    monitor, model = transformers_monitor(every=5), Classifier()
    Trainer(model, arguments, train_dataset=rows, callbacks=[monitor]).train()
    assert monitor.network.steps == 30
    assert not [f for f in monitor.findings if f.severity.level >= Severity.WARN.level]


def small_bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 16}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=2, **sizes, **layers))


def token_batch(n=320):
    ids = torch.randint(5, 50, (n, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.isin(ids, torch.tensor([7, 9, 11, 30])).any(1).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def bert_trainer(folder, monitor, model=None, optimizer=None, **settings):
    from transformers import Trainer, TrainingArguments

    steps = {"max_steps": 20, "logging_steps": 5, "save_steps": 20, "eval_steps": 10}
    given = {"learning_rate": 2e-3, "eval_strategy": "steps", **steps, **QUIET, **settings}
    given = {"per_device_train_batch_size": 16, **given}
    arguments = TrainingArguments(str(folder), **given)
    batch = token_batch()
    rows = [{name: value[i] for name, value in batch.items()} for i in range(320)]
    sides = {"train_dataset": rows[:256], "eval_dataset": rows[256:], "callbacks": [monitor]}
    return Trainer(model or small_bert(), arguments, optimizers=(optimizer, None), **sides)


@REAL
def test_bert_is_watched_its_curves_are_read_and_its_resumed_run_counts_on(tmp_path):
    first, second = transformers_monitor(every=5), transformers_monitor(every=5)
    trainer = bert_trainer(tmp_path, first)
    trainer.train()
    assert first.network.facts.start_loss == pytest.approx(math.log(2), abs=0.1)
    assert not [f for f in first.findings if f.severity.level >= Severity.WARN.level]
    logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert first.curves.val_loss.tolist() == pytest.approx(logged)
    resumed = bert_trainer(tmp_path, second, max_steps=40)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    assert (int(second.network.step[0]), second.network.steps) == (25, 40)
    assert second.network.facts.start_loss is None
    # The evaluations within the second epoch are one row of it, the later one.
    later = [row["eval_loss"] for row in resumed.state.log_history if "eval_loss" in row]
    assert second.curves.val_loss.tolist() == pytest.approx([later[0], *later[2:]])
    assert later[:2] == pytest.approx(logged)
    records = collect(resumed.model, [token_batch(60)])
    assert records.logits.shape == (60, 2)
    assert records.modality is not None


@REAL
def test_a_head_of_bert_outside_the_optimizer_is_named(tmp_path):
    monitor, model = transformers_monitor(every=5), small_bert()
    body = [p for name, p in model.named_parameters() if not name.startswith("classifier")]
    optimizer = torch.optim.AdamW(body, lr=2e-3)
    bert_trainer(tmp_path, monitor, model, optimizer, save_strategy="no").train()
    assert monitor.findings[0].subject == "classifier"
    assert monitor.findings[0].numbers["kind"] == "not_in_optimizer"


def first_gradient(folder, accumulate, divided, monitor=None):
    """Length of the gradient of the first step over 16 rows, in one pass or more."""
    from transformers import TrainerCallback

    class Length(TrainerCallback):
        lengths = ()

        def on_pre_optimizer_step(self, args, state, control, model=None, **given):
            gradients = [p.grad.flatten() for p in model.parameters()]
            self.lengths += (float(torch.cat(gradients).norm()),)

    length = Length()
    model = small_bert()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    rows = {"per_device_train_batch_size": 16 // accumulate}
    steps = {"gradient_accumulation_steps": accumulate, "max_grad_norm": 1e9}
    settings = {"save_strategy": "no", "eval_strategy": "no", **rows, **steps}
    trainer = bert_trainer(folder, monitor or length, model, **settings)
    trainer.add_callback(length)
    trainer.model_accepts_loss_kwargs = trainer.model_accepts_loss_kwargs and not divided
    trainer.train()
    return length.lengths[0]


@REAL
@pytest.mark.parametrize("divided", [False, True])
def test_whether_accumulated_gradients_are_averaged_is_seen(tmp_path, divided):
    monitor = transformers_monitor(every=2)
    found = first_gradient(tmp_path, 2, divided, monitor)
    ratio = found / first_gradient(tmp_path, 1, divided)
    assert ratio == pytest.approx(1.0, abs=0.01) or not divided
    kinds = [f.numbers.get("kind") for f in monitor.findings]
    assert ("accumulation_not_averaged" in kinds) == (ratio > 1.5)

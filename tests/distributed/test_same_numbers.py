"""One seed gives one course of training, however many devices and processes share the work."""

import json

import pytest
from distributed import launch
from safetensors.numpy import load_file
from training import runs

from transkimmer_jax import TranskimmerForSentenceEmbedding, TranskimmerForSequenceClassification
from transkimmer_jax.config import override
from transkimmer_jax.data.pipeline import load_tokenizer
from transkimmer_jax.training.distillation import distil_config

# Every step is recorded. 37 texts of validation are shared by no number of devices.
FIELDS = {"train.steps": "20", "train.log_every": "1", "train.eval_every": "20", "train.save_every": "20", "data.eval_examples": "37"}
CLOSE = 1e-5


def classifier(config, checkpoint, folder):
    """Dropout and sampled gates on, neurons left out, and a teacher beside the labels."""
    teacher = TranskimmerForSequenceClassification.from_pretrained(checkpoint, dense=True, num_labels=2)
    teacher.save_pretrained(folder / "teacher", tokenizer=load_tokenizer(checkpoint))
    return override(config, {"model.intermediate_size": "24", "distill.teacher": str(folder / "teacher")})


def embedder(config, checkpoint, folder):
    """As `distil` makes one: for several budgets, whose levels are set in the end, with maps of what leaves, and settled decisions."""
    teacher = TranskimmerForSentenceEmbedding.from_pretrained(checkpoint, dense=True)
    teacher.save_pretrained(folder / "teacher", tokenizer=load_tokenizer(checkpoint))
    texts = folder / "texts.txt"
    texts.write_text("".join(f"{record['text']}\n" for record in runs.make_reviews(1200, seed=0)), encoding="utf-8")
    distilled = distil_config(str(folder / "teacher"), [str(texts)], targets=(0.6, 0.8, 0.45), max_length=12)
    return override(distilled, {"data.batch_size": str(config.data.batch_size), "data.length_buckets": "12"})


@pytest.fixture(scope="module", params=[classifier, embedder])
def config_file(request, config, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    return runs.write_config(folder / "task.py", override(request.param(config, checkpoint, folder), FIELDS))


@pytest.fixture(scope="module")
def alone(config_file, tmp_path_factory):
    """The run on a single device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    with launch.Run(config_file, workdir) as run:
        run.finish()
    return workdir


def assert_same(workdir, alone):
    expected, found = launch.losses(alone), launch.losses(workdir)
    assert list(found) == list(expected) == list(range(1, 21))
    assert found == pytest.approx(expected, rel=CLOSE)
    results = [json.loads((folder / "result.json").read_text()) for folder in (workdir, alone)]
    assert results[0]["examples"] == results[1]["examples"] and 37 in results[0]["examples"].values()
    assert results[0]["metrics"].keys() == results[1]["metrics"].keys()
    for split, metrics in results[1]["metrics"].items():
        assert results[0]["metrics"][split] == pytest.approx(metrics, rel=CLOSE)
    assert results[0]["kept_per_layer"] == pytest.approx(results[1]["kept_per_layer"], rel=CLOSE)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (workdir, alone)]
    for name, tensor in weights[1].items():
        # A key's bias moves all scores of a query alike: its gradient is rounding, which Adam makes steps of.
        if not name.endswith("key.bias"):
            assert weights[0][name] == pytest.approx(tensor, rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize(("data", "fsdp"), [(2, 4), pytest.param(8, 1, marks=pytest.mark.slow), pytest.param(1, 8, marks=pytest.mark.slow)])
def test_simulated_devices(config_file, alone, tmp_path, data, fsdp):
    mesh = (f"--config.mesh.data={data}", f"--config.mesh.fsdp={fsdp}")
    with launch.Run(config_file, tmp_path / "run", *mesh, devices=8) as run:
        run.finish()
        said = f"process 0 of 1, 8 of 8 devices (cpu); mesh data {data} x fsdp {fsdp}, 2 examples a device and step"
        assert said in run.logs[0].read_text()
    assert_same(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices", "fsdp"), [(2, 2, 2), (4, 1, 2)])
def test_real_processes(config_file, alone, tmp_path, count, devices, fsdp):
    """In the second case the parameters are split over processes too."""
    with launch.Run(config_file, tmp_path / "run", f"--config.mesh.fsdp={fsdp}", count=count, devices=devices) as run:
        run.finish()
        said = f"process 0 of {count}, {devices} of 4 devices (cpu); mesh data 2 x fsdp 2, 4 examples a device and step"
        assert said in run.logs[0].read_text()
        # The others say nothing where all is well.
        assert not any("step" in run.output(number) for number in range(1, count))
    assert_same(tmp_path / "run", alone)

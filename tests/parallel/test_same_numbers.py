"""One seed gives one course of training, however many devices and processes share the work."""

import json

import pytest
from parallel import launch
from safetensors.numpy import load_file
from training import runs

from transkimmer_jax import TranskimmerForSequenceClassification
from transkimmer_jax.config import override
from transkimmer_jax.data.pipeline import load_tokenizer

# Dropout and sampled gates on, neurons left out, and a teacher beside the labels; every step is recorded. 37 texts of validation are
# shared by no number of devices.
FIELDS = {
    "train.steps": "20", "train.log_every": "1", "train.eval_every": "20", "train.save_every": "20", "data.eval_examples": "37",
    "model.intermediate_size": "24",
}  # fmt: skip
CLOSE = 1e-5


@pytest.fixture(scope="module")
def config_file(config, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    teacher = TranskimmerForSequenceClassification.from_pretrained(checkpoint, dense=True, num_labels=2)
    teacher.save_pretrained(folder / "teacher", tokenizer=load_tokenizer(checkpoint))
    return runs.write_config(folder / "task.py", override(config, FIELDS | {"distill.teacher": str(folder / "teacher")}))


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
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["examples"] == {"validation": 37}
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
        assert f"process 0 of 1, 8 of 8 devices (cpu); mesh data {data} x fsdp {fsdp}, 2 examples a device and step" in run.output()
    assert_same(tmp_path / "run", alone)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "devices", "fsdp"), [(2, 2, 2), (4, 1, 2)])
def test_real_processes(config_file, alone, tmp_path, count, devices, fsdp):
    """In the second case the parameters are split over processes too."""
    with launch.Run(config_file, tmp_path / "run", f"--config.mesh.fsdp={fsdp}", count=count, devices=devices) as run:
        run.finish()
        assert f"process 0 of {count}, {devices} of 4 devices (cpu); mesh data 2 x fsdp 2, 4 examples a device and step" in run.output(0)
        # The others say nothing where all is well.
        assert not any("step" in run.output(number) for number in range(1, count))
    assert_same(tmp_path / "run", alone)

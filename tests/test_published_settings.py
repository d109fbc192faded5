"""Every setting that the paper states, section 4.1 above all, against those of `scale=paper`."""

import pytest
import torch

from d2it.config import Config, load
from d2it.config.run import run_of
from d2it.config.settings import walk
from d2it.cost.macs import parameters
from d2it.grains.maps import cell_weights, constant_map
from d2it.jobs.launcher import load_launcher
from d2it.models.architecture import architecture
from d2it.models.content_transformer import ContentTransformer

# The words of the paper, the setting that says them here, and its value.
STATED = [
    ("3.1: σ = 0.01", "sigma", 0.01),
    ("3.1: P = S x S bins, S = 16", "bins", 16 * 16),
    ("3.1: the entropy distribution of ImageNet", "data.ffhq.thresholds_from", "imagenet"),
    ("3.1: the entropy distribution of ImageNet", "data.imagenet.thresholds_from", "imagenet"),
    ("4.1: F = {8, 16}", "model.factors", [16, 8]),
    ("4.1: a RGB image of shape 256 x 256 x 3", "data.ffhq.size", 256),
    ("4.1: a RGB image of shape 256 x 256 x 3", "data.imagenet.size", 256),
    ("4.1: 32 x 32 x 4 and 16 x 16 x 4", "model.latent_channels", 4),
    ("4.1: the settings remain the same as DiT-S", "runs.grain.grain.size", "S"),
    ("4.1: the settings remain the same as DiT-S", "runs.grain.grain_classes.size", "S"),
    ("4.1: maximum time step 1000", "diffusion.timesteps", 1000),
    ("4.1: a linear variance schedule from 10^-4", "diffusion.beta_start", 1e-4),
    ("4.1: to 2 x 10^-2", "diffusion.beta_end", 2e-2),
    ("4.1: batch size of 256", "training.content.batch", 256),
    ("4.1: batch size of 256", "training.grain.batch", 256),
    ("4.1: learning rate of 1 x 10^-4", "training.content.learning_rate", 1e-4),
    ("4.1: learning rate of 1 x 10^-4", "training.grain.learning_rate", 1e-4),
    ("4.1: a constant one, as in DiT", "training.content.warmup", 0),
    ("4.1: unconditional FFHQ", "task.unconditional", "ffhq"),
    ("4.1: class-conditional ImageNet", "task.conditional", "imagenet"),
    ("4.1: class-conditional ImageNet", "data.imagenet.classes", 1000),
    ("4.1: FID-10K on FFHQ", "evaluation.n", 10_000),
    ("4.1: FID-50K on ImageNet", "runs.content.d2it_xl_classes.evaluations.main.n", 50_000),
    ("4.1: FID-50K on ImageNet", "runs.dit.dit_xl_classes.evaluations.main.n", 50_000),
    ("4.2: the ratio r_{f=8} = 0.5", "ratio", 0.5),
    ("4.2: 800 epochs, FFHQ", "runs.content.d2it_l.images", 800 * 70_000),
    ("4.2: 800 epochs, FFHQ", "runs.dit.dit_l.images", 800 * 70_000),
    ("4.2: 800 epochs", "runs.content.d2it_xl_classes.images", 800 * 1_281_167 // 256 * 256),
    ("4.3: 50 epochs", "training.content.images", 50 * 70_000 // 256 * 256),
    ("T4: ten DiT and two RefineNet layers", "runs.content.d2it_b.split", (10, 2)),
    ("T4: 8 and 4", "runs.content.d2it_b_8_4.split", (8, 4)),
    ("T4: 12 and 4", "runs.content.d2it_b_12_4.split", (12, 4)),
]


@pytest.fixture(scope="module")
def config() -> Config:
    return load(overrides=["scale=paper"])


@pytest.mark.parametrize(("words", "name", "value"), STATED)
def test_every_setting_that_the_paper_states(config, words, name, value):
    settings = {setting.name: value for setting, value in walk(config)}
    assert settings[name] == value, words


def test_the_average_decays_by_0_9999_a_step(config):
    for training in (config.training.content, config.training.grain, config.training.dit):
        decay = 0.5 ** (training.batch / training.ema_half_life)
        assert decay == pytest.approx(0.9999, abs=1e-9)


def test_what_settings_make_of_the_networks(config):
    """Sizes, 33 M of the grain network, patches of 2 and 1, codes of 32 x 32 and 16 x 16, α_i."""
    for size, millions in (("b", 136), ("l", 467), ("xl", 687)):
        shape = architecture(run_of(config, f"d2it_{size}_classes"))
        assert round(parameters("content", shape)["trainable"] / 1e6) == millions
        assert (shape["heads_out"], shape["bias"]) == (3, "global")  # Eq 7; Eq 10
        with torch.device("meta"):
            network = ContentTransformer(**shape)
        assert (network.side, network.patch, network.refine[0].patch) == (32, 2, 1)
    grain = architecture(run_of(config, "grain_classes"))
    assert grain["side"] == 16
    assert round(parameters("grain", grain)["trainable"] / 1e6) == 33
    assert [float(cell_weights(constant_map(1, 1, i), 2).max()) for i in (0, 1)] == [0.25, 1]


def test_eight_gpus_train_the_content_networks():
    assert load_launcher("slurm").of("content").gpus == 8


def test_figure_6_has_steps_that_both_networks_share(config):
    for size in ("b", "l", "xl"):
        ours, theirs = (run_of(config, f"{kind}_{size}_classes") for kind in ("d2it", "dit"))
        assert {*ours.milestones, ours.images} <= {*theirs.milestones, theirs.images}
        assert len(ours.milestones) == 2


def test_57_percent_of_the_steps_are_all_of_800_epochs_and_guided_alike(config):
    ours, theirs = (run_of(config, f"{kind}_xl_classes") for kind in ("d2it", "dit"))
    assert ours.images / theirs.images == pytest.approx(0.571, abs=1e-3)
    guided = [
        {one.guidance: one.at for one in run.evaluations.values() if one.guidance != 1}
        for run in (ours, theirs)
    ]
    assert guided[0] == guided[1] and set(guided[0].values()) == {1}

"""A DVAE that starts from the weights of diffusers' AutoencoderKL."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from d2it.config import load
from d2it.config.run import run_of
from d2it.config.schema import WarmStart
from d2it.errors import UserError
from d2it.files import file_digest
from d2it.grains.calibrate import calibrate
from d2it.grains.maps import constant_map
from d2it.images.prepare import prepare
from d2it.models.dvae import Dvae
from d2it.models.from_autoencoder import fresh_parts, renamed, warm_start
from tests.commands import Done, command
from tests.test_prepare import tree
from tests.tiny_world import OVERRIDES, enter


def autoencoder(widths: tuple[int, ...] = (8, 16, 16), blocks: int = 2) -> torch.nn.Module:
    """A randomly initialised VAE of Stable Diffusion's form, with norms that are not all one."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    theirs = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=blocks,
        norm_num_groups=4,
        sample_size=32,
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return theirs


def ours(factors: list[int], multipliers: list[int], blocks: int = 2) -> Dvae:
    torch.manual_seed(1)
    return Dvae(factors, 32, 4, 8, multipliers, blocks, [], 4)


def saved(state: dict[str, torch.Tensor], folder: Path) -> WarmStart:
    path = folder / "vae.safetensors"
    save_file(state, path)
    return WarmStart(str(path), file_digest(path))


OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("factors", [[4], [8, 4], [16, 8, 4]])
def test_codes_and_images_are_those_of_the_autoencoder(tmp_path, factors, old_names):
    theirs = autoencoder()
    state = theirs.state_dict()
    if old_names:
        for new, old in OLD.items():
            state = {name.replace(new, old): value for name, value in state.items()}
    network = ours(factors, [1, 2, 2, 2, 2][: 2 + len(factors)])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    said = warm_start(network, saved(state, tmp_path))

    x = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = theirs.encode(x).latent_dist
        mean, logvar = network.encode(x)[-1]
        assert torch.allclose(mean, expected.mean, atol=1e-5)
        assert torch.allclose(logvar, expected.logvar, atol=1e-5)
        # all fine, the whole DVAE is the autoencoder
        map = constant_map(2, 32 // factors[0], len(factors) - 1)
        silent = [torch.zeros(2, 4, 32 // factor, 32 // factor) for factor in factors]
        images, _ = network(x, map, silent)
        assert torch.allclose(images, theirs.decode(expected.mean).sample, atol=1e-5)

    fresh = tuple(fresh_parts(network))
    assert all(part.rstrip(".") in said for part in fresh)
    assert len(fresh) == 3 * (len(factors) - 1)  # a stage, a halving and a head each
    kept = {name for name, value in network.state_dict().items() if value.equal(before[name])}
    assert kept == {name for name in before if name.startswith(fresh)}


@pytest.mark.parametrize("factors", [[16, 8], [8]])
def test_stable_diffusions_own_shapes_are_those_of_the_published_scale(factors):
    from diffusers import AutoencoderKL

    model = load(overrides=["scale=paper"]).model.dvae
    multipliers = model.multipliers[: factors[0].bit_length()]
    with torch.device("meta"):
        theirs = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        network = Dvae(factors, 256, 4, model.channels, multipliers, model.res_blocks, [])
        state = renamed(theirs.state_dict(), f"encoder.heads.{len(factors) - 1}.")
    fresh = tuple(fresh_parts(network))
    needed = {n: v.shape for n, v in network.state_dict().items() if not n.startswith(fresh)}
    assert {name: value.shape for name, value in state.items()} == needed


def lacking(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if part not in name}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (lambda: autoencoder((8, 16, 32)).state_dict(), r"stages\.2\.0\.conv1\.weight is \[32, 16"),
        (lambda: autoencoder((8, 16)).state_dict(), r"stages\.2\.0\.norm1\.weight is missing"),
        (
            lambda: autoencoder((8, 16, 16, 16)).state_dict(),
            r"decoder\.stages\.2\.0\.conv1\.weight is \[16, 16, 3, 3\] there, and \[8, 16, ",
        ),
        (
            lambda: autoencoder(blocks=1).state_dict(),
            r"stages\.0\.1\.norm1\.weight is missing there",
        ),
        (lambda: lacking(autoencoder().state_dict(), "quant_conv"), r"heads\.0\.quant\.weight"),
        (lambda: {"weight": torch.zeros(3)}, "do not fit: encoder.conv_in.weight is missing there"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(tmp_path, state, sentence):
    network = ours([4], [1, 2, 2])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UserError, match=sentence) as error:
        warm_start(network, saved(state(), tmp_path))
    assert "\n" not in str(error.value)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_a_run_knows_the_weights_it_starts_from_but_not_where_they_stand():
    def recipe(*overrides: str) -> dict:
        return run_of(load(overrides=list(overrides)), "dvae").recipe

    file, digest = "model.dvae.warm_start.file", "model.dvae.warm_start.sha256"
    first = recipe(f"{file}=a.safetensors", f"{digest}={'a' * 64}")
    assert first == recipe(f"{file}=b/c.safetensors", f"{digest}={'a' * 64}")
    assert first != recipe(f"{file}=a.safetensors", f"{digest}={'b' * 64}")
    assert first["settings"]["model"].pop("warm_start") == "a" * 64
    assert first == recipe()
    with pytest.raises(UserError, match="model.dvae.warm_start.sha256' is missing"):
        recipe(f"{file}=a.safetensors")


def test_files_that_are_not_there_or_not_the_one_meant(tmp_path):
    network = ours([4], [1, 2, 2])
    source = saved(autoencoder().state_dict(), tmp_path)
    with pytest.raises(UserError, match="has the sha256 .*, not model.dvae.warm_start.sha256"):
        warm_start(network, WarmStart(source.file, "0" * 64))
    with pytest.raises(UserError, match="there is no file none.safetensors"):
        warm_start(network, WarmStart("none.safetensors", source.sha256))


def train(source: WarmStart) -> Done:
    given = [f"model.dvae.warm_start.{key}={value}" for key, value in vars(source).items()]
    short = ["training.dvae.images=8", "training.dvae.batch=4", "dvae_loss.gan_start=4"]
    return command("train", "dvae", *OVERRIDES, *short, *given, "--processes", "1")


def test_the_command_starts_from_the_weights_and_opens_no_pickle(tmp_path, monkeypatch):
    enter(tmp_path, monkeypatch)
    config = load(overrides=OVERRIDES)
    prepare(config, "photos", 1)
    calibrate(config, "photos")
    torch.save(autoencoder((16, 32, 64), 1).state_dict(), "vae.bin")
    before = tree(tmp_path)
    done = train(WarmStart("vae.bin", file_digest("vae.bin")))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "vae.bin is not a safetensors file, and a pickle is never opened" in done.stderr
    assert tree(tmp_path) == before

    done = train(saved(autoencoder((16, 32, 64), 1).state_dict(), tmp_path))
    assert done.returncode == 0, done.stderr
    [log] = tmp_path.glob("runs/dvae*/log.txt")  # a run of equals has the longest name
    assert "initialised fresh: encoder.stages.3, encoder.downsamples.2, encoder.heads.0" in (
        log.read_text()
    )

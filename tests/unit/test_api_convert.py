from __future__ import annotations

import json

import pytest
import torch

from dpforge.cli.convert import main
from dpforge.errors import ConfigError, DataError, RunError
from dpforge.generators.private_evolution.apis.unet_folder import load_unet
from dpforge.pretrain.conversion import Conversion, convert
from dpforge.pretrain.openai_layout import layout_of, original_forward, unet_config

diffusers = pytest.importorskip("diffusers")
SETTINGS = Conversion(heads=4, image_size=16, diffusion_steps=100)
WIDTHS, BLOCKS, ATTENDED, CLASSES = (32, 64), 2, (False, True), 7


class Checkpoint(dict):
    """Random tensors under the names of a small network of improved diffusion."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        width, time = WIDTHS[0], 4 * WIDTHS[0]
        self.layer("time_embed.0", time, width)
        self.layer("time_embed.2", time, time)
        self["label_emb.weight"] = self.tensor(CLASSES, time)
        self.layer("input_blocks.0.0", width, 3, 3, 3)
        skips, at = [width], 1
        for level, out in enumerate(WIDTHS):
            for _ in range(BLOCKS):
                self.residual(f"input_blocks.{at}.0", width, out)
                width = out
                self.attend(f"input_blocks.{at}.1", width, level)
                skips.append(width)
                at += 1
            if level + 1 < len(WIDTHS):
                self.layer(f"input_blocks.{at}.0.op", width, width, 3, 3)
                skips.append(width)
                at += 1
        self.residual("middle_block.0", width, width)
        self.attend("middle_block.1", width, 1)
        self.residual("middle_block.2", width, width)
        at = 0
        for level in (1, 0):
            for block in range(BLOCKS + 1):
                self.residual(f"output_blocks.{at}.0", width + skips.pop(), WIDTHS[level])
                width = WIDTHS[level]
                self.attend(f"output_blocks.{at}.1", width, level)
                if level and block == BLOCKS:
                    self.layer(f"output_blocks.{at}.2.conv", width, width, 3, 3)
                at += 1
        self.norm("out.0", width)
        self.layer("out.2", 6, width, 3, 3)

    def tensor(self, *shape):
        return torch.randn(*shape, generator=self.generator) * 0.2

    def layer(self, name, out, *rest):
        self[f"{name}.weight"] = self.tensor(out, *rest)
        self[f"{name}.bias"] = self.tensor(out)

    def norm(self, name, width):
        self[f"{name}.weight"] = 1 + self.tensor(width)
        self[f"{name}.bias"] = self.tensor(width)

    def residual(self, name, width, out):
        self.norm(f"{name}.in_layers.0", width)
        self.layer(f"{name}.in_layers.2", out, width, 3, 3)
        self.layer(f"{name}.emb_layers.1", 2 * out, 4 * WIDTHS[0])
        self.norm(f"{name}.out_layers.0", out)
        self.layer(f"{name}.out_layers.3", out, out, 3, 3)
        if width != out:
            self.layer(f"{name}.skip_connection", out, width, 1, 1)

    def attend(self, name, width, level):
        if ATTENDED[level]:
            self.norm(f"{name}.norm", width)
            self.layer(f"{name}.qkv", 3 * width, width, 1)
            self.layer(f"{name}.proj_out", width, width, 1)


@pytest.fixture(scope="module")
def state():
    return dict(Checkpoint())


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    torch.save(state, path)
    return path


def test_the_architecture_is_read_from_the_tensors(state):
    layout = layout_of(state)
    assert (layout.widths, layout.blocks, layout.attention) == (WIDTHS, BLOCKS, ATTENDED)
    assert (layout.inputs, layout.outputs, layout.classes, layout.scale_shift) == (3, 6, CLASSES, True)


def test_the_folder_computes_what_the_checkpoint_computes(state, file, tmp_path):
    record = convert(file, tmp_path / "out", SETTINGS)
    unet = load_unet(str(tmp_path / "out"), "cpu", torch.float32)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    times, labels = torch.tensor([0.0, 40.0, 99.0]), torch.tensor([6, 0, 3])
    with torch.no_grad():
        expected = original_forward(state, x, times, labels, 4)
        found = unet(x, times, class_labels=labels).sample
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert record["largest_difference"] < 1e-3
    assert record["parameters"] == sum(tensor.numel() for tensor in state.values())


def test_the_forward_pass_is_that_of_torch_modules_for_a_residual_block(state):
    from torch import nn

    x, emb = torch.randn(2, 32, 16, 16), torch.randn(2, 128)
    name = "input_blocks.1.0"
    first = nn.Sequential(nn.GroupNorm(32, 32), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1))
    norm, last = (
        nn.GroupNorm(32, 32),
        nn.Sequential(nn.SiLU(), nn.Dropout(0), nn.Conv2d(32, 32, 3, padding=1)),
    )
    given = nn.Sequential(nn.SiLU(), nn.Linear(128, 64))
    for module, key in (
        (first[0], "in_layers.0"), (first[2], "in_layers.2"), (norm, "out_layers.0"),
        (last[2], "out_layers.3"), (given[1], "emb_layers.1"),
    ):  # fmt: skip
        module.load_state_dict({kind: state[f"{name}.{key}.{kind}"] for kind in ("weight", "bias")})
    from dpforge.pretrain.openai_layout import _residual

    with torch.no_grad():
        scale, shift = given(emb)[:, :, None, None].chunk(2, 1)
        expected = x + last(norm(first(x)) * (1 + scale) + shift)
        torch.testing.assert_close(_residual(state, name, x, emb), expected)


def test_attention_with_another_number_of_heads_computes_something_else(state):
    x, times, labels = torch.randn(1, 3, 16, 16), torch.tensor([5.0]), torch.tensor([1])
    with torch.no_grad():
        outputs = [original_forward(state, x, times, labels, heads) for heads in (1, 4)]
    assert not torch.allclose(*outputs, atol=1e-2)


def test_a_network_that_forgets_its_number_of_heads_is_told_apart(state, file, tmp_path):
    convert(file, tmp_path / "out", SETTINGS)
    (tmp_path / "out" / "dpforge.json").write_text("{}")
    unet = load_unet(str(tmp_path / "out"), "cpu", torch.float32)
    x, times, labels = torch.randn(1, 3, 16, 16), torch.tensor([5.0]), torch.tensor([1])
    with torch.no_grad():
        expected = original_forward(state, x, times, labels, 4)
        assert not torch.allclose(unet(x, times, class_labels=labels).sample, expected, atol=1e-2)


def test_the_layout_of_the_published_checkpoint_has_its_number_of_parameters():
    layout = type(layout_of(dict(Checkpoint())))(
        (192, 384, 576, 768), 3, (False, False, True, True), 3, 6, 1000, True
    )
    with torch.device("meta"):
        unet = diffusers.UNet2DModel(**unet_config(layout, 64))
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6) == 273


def test_the_noise_schedule_is_written_beside_the_network(file, tmp_path):
    convert(file, tmp_path / "out", Conversion(4, 16, "linear", 4000, rescale_timesteps=True))
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "out")
    assert float(scheduler.betas[0]) == pytest.approx(1e-4 / 4)
    assert float(scheduler.betas[-1]) == pytest.approx(0.02 / 4)
    assert json.loads((tmp_path / "out" / "dpforge.json").read_text())["rescale_timesteps"] is True


def test_files_that_are_no_checkpoint_are_refused(tmp_path, state, file):
    class Harm:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Harm()}, tmp_path / "harm.pt")
    (tmp_path / "text.pt").write_text("no")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    torch.save({**state, "extra.0.weight": torch.ones(1)}, tmp_path / "more.pt")
    for name in ("harm.pt", "text.pt", "other.pt", "more.pt", "absent.pt"):
        with pytest.raises(DataError):
            convert(tmp_path / name, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="heads=5"):
        convert(file, tmp_path / "out", Conversion(5, 16))
    with pytest.raises(RunError, match="exists"):
        convert(file, tmp_path, SETTINGS)


def test_the_command_says_how_far_both_forward_passes_are_apart(file, tmp_path, capsys):
    main([str(file), str(tmp_path / "out"), "--image-size", "16", "--half"])
    assert "largest difference" in capsys.readouterr().out
    assert load_unet(str(tmp_path / "out"), "cpu", torch.float32).config.num_class_embeds == CLASSES
    with pytest.raises(SystemExit) as caught:
        main([str(file), str(tmp_path / "out")])
    assert caught.value.code == 2

"""Self-attention with a reference's keys and values: compared with plain attention, and restored afterwards."""

from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import WIDTH, tiny_unet
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.methods.hifi123.injection import injection, self_attentions

SEED = fresh_seed(__name__)
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64, one evaluation


def setting() -> tuple[Any, Tensor, Tensor]:
    """A random network in float64, a batch of three, and texts."""
    generator = torch.Generator().manual_seed(SEED)
    unet = tiny_unet(generator).double()
    return unet, *(torch.randn(shape, generator=generator).double() for shape in ((3, 5, 8, 8), (3, 4, WIDTH)))


class PlainAttention:
    """Explicit attention: softmax(Q K^T / sqrt(d)) V, with K and V of the first in the batch."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        first = hidden_states[:1].expand_as(hidden_states)
        query, key, value = (
            torch.stack(layer(states).chunk(attn.heads, dim=-1), dim=1)
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, first), (attn.to_v, first))
        )
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return attn.to_out[0](torch.cat((weights @ value).unbind(1), dim=-1))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_values_and_gradients(count: int) -> None:
    unet, sample, texts = setting()
    sample.requires_grad_()
    weight = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(SEED + 1)).double()
    results = []
    for plain in (True, False):
        layers = self_attentions(unet)[-count:]
        before = [attention.processor for _, attention in layers]
        if plain:
            for _, attention in layers:
                attention.set_processor(PlainAttention())
            output = unet(sample, 400, texts).sample
            for (_, attention), processor in zip(layers, before, strict=True):
                attention.set_processor(processor)
        else:
            with injection(unet, count):
                output = unet(sample, 400, texts).sample
        results.append((output, *torch.autograd.grad((weight * output).sum(), sample)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **EXACT, msg=f"seed {SEED}")
    plainly = unet(sample, 400, texts).sample
    torch.testing.assert_close(results[1][0][0], plainly[0], **EXACT)  # the reference itself is not changed
    assert (results[1][0][1:] - plainly[1:]).abs().amax((1, 2, 3)).min() > 1e-4, "no effect on the others"


@torch.no_grad()
def test_cached_reference() -> None:
    """Cached keys and values have the same effect as the reference in the batch."""
    unet, sample, texts = setting()
    with injection(unet, 3) as found:
        together = unet(sample, 400, texts).sample
        assert sorted(found) == [4, 5, 6]
    with injection(unet, 3) as alone:
        unet(sample[:1], 400, texts[:1])
    for number, pair in alone.items():
        for one, other in zip(pair, found[number], strict=True):
            assert one.shape[0] == 1
            torch.testing.assert_close(one, other, **EXACT)
    with injection(unet, 3, alone) as used:
        others = unet(sample[1:], 400, texts[1:]).sample
    assert used is alone
    torch.testing.assert_close(others, together[1:], **EXACT, msg=f"seed {SEED}")
    with injection(unet, 1, alone):  # fewer layers than are cached
        assert (unet(sample[1:], 400, texts[1:]).sample - others).abs().max() > 1e-5
    with pytest.raises(ValueError, match=r"expected those of the layers \[3, 4, 5, 6\], got \[4, 5, 6\]"):
        injection(unet, 4, alone).__enter__()


@torch.no_grad()
def test_nothing_is_left_behind() -> None:
    """After several calls, nested contexts and exceptions, processors and results are as before."""
    unet, sample, texts = setting()
    before, plain = dict(unet.attn_processors), unet(sample, 400, texts).sample

    def intact() -> bool:
        now = unet.attn_processors
        return now.keys() == before.keys() and all(now[name] is before[name] for name in now)

    with injection(unet, 2):
        first = unet(sample, 400, texts).sample
        assert not intact()
        assert unet(sample, 400, texts).sample.equal(first), "calls in one context are equal"
        with injection(unet, 5):
            assert not unet(sample, 400, texts).sample.equal(first)
        assert unet(sample, 400, texts).sample.equal(first), "the outer context goes on"
    assert intact() and unet(sample, 400, texts).sample.equal(plain)
    with injection(unet, 2):
        assert unet(sample, 400, texts).sample.equal(first), "a new context does the same"
    with pytest.raises(RuntimeError), injection(unet, 2):
        unet(sample[:, :4], 400, texts)  # one channel too few
    assert intact() and unet(sample, 400, texts).sample.equal(plain)


@torch.no_grad()
def test_layers_are_in_the_order_of_a_call() -> None:
    unet, sample, texts = setting()
    layers, passed = self_attentions(unet), list[str]()
    hooks = [attention.register_forward_hook(lambda *_, n=name: passed.append(n)) for name, attention in layers]
    unet(sample, 400, texts)
    assert passed == [name for name, _ in layers] and len(passed) == 7
    assert passed[2].startswith("mid_block.") and passed[3].startswith("up_blocks.0.")
    for hook in hooks:
        hook.remove()


def test_layers_of_the_full_model() -> None:
    """Of Stable Diffusion's 16, the last four are the release's 12 to 15: the last of up_blocks.2, and up_blocks.3."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(in_channels=5, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20))
    names = [name for name, _ in self_attentions(unet)]
    assert len(names) == 16
    with injection(unet):
        changed = [n for n, p in unet.attn_processors.items() if type(p).__name__ == "_ReferenceAttention"]
    assert changed == [f"{name}.processor" for name in names[12:]]
    assert [name.split(".attentions")[0] for name in names[12:]] == ["up_blocks.2"] + ["up_blocks.3"] * 3


WITHOUT = {
    "no attention at all": (
        {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "mid_block_type": None},
        1,
        "last_layers: expected 1 to 0, the UNet's self-attention layers, got 1",
    ),
    "fewer": ({}, 8, "last_layers: expected 1 to 7, the UNet's self-attention layers, got 8"),
    "below none": ({}, -1, "last_layers: expected 1 to 7, the UNet's self-attention layers, got -1"),
    "cross-attention there": (
        {"only_cross_attention": (True, False), "mid_block_only_cross_attention": False},
        3,
        r"last_layers: layer 5 of the UNet \(up_blocks\.1\..*\.attn1\) has no self-attention; ask for fewer",
    ),
}


@pytest.mark.parametrize(("options", "count", "message"), WITHOUT.values(), ids=WITHOUT)
def test_networks_without_self_attention(options: dict[str, Any], count: int, message: str) -> None:
    unet = tiny_unet(torch.Generator().manual_seed(SEED), **options)
    with pytest.raises(InputError, match=message):
        injection(unet, count).__enter__()

"""Attention written by hand is the attention that torch computes, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as fn

from shared.worldmodel import attention
from shared.worldmodel.attention import CausalAttention, SmallHeads
from shared.worldmodel.layers import MANY_TOKENS, linear
from shared.worldmodel.rms_norm import RmsNorm
from shared.worldmodel.token_loss import ROWS, TokenLoss


def torchs(qkv: Tensor) -> Tensor:
    q, k, v = (part.transpose(2, 3) for part in qkv.unbind(1))
    return fn.scaled_dot_product_attention(q, k, v).transpose(2, 3)


def agree(ours: Tensor, expected: Tensor, *inputs: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=atol)
    weight = torch.randn_like(expected)
    found = torch.autograd.grad(ours, inputs, weight)
    for one, other in zip(found, torch.autograd.grad(expected, inputs, weight), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("steepness", [0.1, 1, 30])
def test_small_heads_see_what_flash_attention_sees(monkeypatch: pytest.MonkeyPatch, steepness: float) -> None:
    monkeypatch.setattr(attention, "BLOCK", 5 * 25**2)  # five of the six heads at a time
    torch.manual_seed(0)
    qkv = torch.randn(2, 3, 3, 4, 25)
    qkv[:, :2] *= steepness
    qkv.requires_grad_()
    agree(SmallHeads.apply(qkv), torchs(qkv), qkv, atol=1e-5 * max(steepness, 1))


def test_scores_that_would_overflow_do_not() -> None:
    qkv = torch.zeros(1, 3, 1, 2, 3)
    qkv[0, 0, 0, 0] = qkv[0, 1, 0, 0] = torch.tensor([0.0, 100.0, -100.0])
    qkv[0, 2, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    qkv.requires_grad_()
    seen = SmallHeads.apply(qkv)
    assert seen[0, 0, 0].tolist() == pytest.approx([2, 2, 3])
    seen.sum().backward()
    assert qkv.grad is not None
    assert qkv.grad.isfinite().all()


def test_gradients_are_the_slopes_of_the_values() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SmallHeads.apply, qkv)
    q = torch.randn(2, 2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 3, 1, 3, 4, dtype=torch.float64, requires_grad=True) for _ in "kv")
    assert torch.autograd.gradcheck(CausalAttention.apply, (q, k, v))
    x, weight, bias = (
        torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((5, 3), (7, 3), (7,))
    )
    assert torch.autograd.gradcheck(TokenLoss.apply, (x, weight, bias, torch.tensor([0, 6, 3, 3, 1])))
    assert torch.autograd.gradcheck(
        lambda x, weight: RmsNorm.apply(x, weight, 1e-5), (x, weight[0].detach().requires_grad_())
    )


def test_a_frame_sees_itself_and_those_before() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 3, 5, 6, requires_grad=True) for _ in "qkv")
    rows = (part.permute(0, 2, 4, 1, 3) for part in (q, k, v))  # [B, N, P, T, K]
    expected = fn.scaled_dot_product_attention(*rows, is_causal=True).permute(0, 3, 1, 4, 2)
    agree(CausalAttention.apply(q, k, v), expected, q, k, v)
    last = CausalAttention.apply(q[:, 3:], k, v)
    torch.testing.assert_close(last, expected[:, 3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 2, 8, 6), (4, 4, MANY_TOKENS // 16, 6), (MANY_TOKENS + 16, 6)])
def test_a_linear_layer_is_one_however_it_is_computed(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*each, requires_grad=True) for each in (shape, (5, 6), (5,)))
    agree(linear(x, weight, bias), fn.linear(x, weight, bias), x, weight, bias, atol=2e-4)


def test_the_loss_of_tokens_is_cross_entropy() -> None:
    torch.manual_seed(0)
    rows = 2 * ROWS + 3
    x, weight, bias = (torch.randn(*each, requires_grad=True) for each in ((rows, 6), (9, 6), (9,)))
    targets = torch.randint(9, (rows,))
    expected = fn.cross_entropy(fn.linear(x, weight, bias), targets, reduction="sum")
    agree(TokenLoss.apply(x, weight, bias, targets), expected, x, weight, bias, atol=1e-3)
    assert TokenLoss.apply(x[:0], weight, bias, targets[:0]) == 0

"""The dynamics: the tokens of the next frame from those before and the actions.

Shapes: B batch, T frames, P patches, E embedding, L latent dimensions, D levels each, V = D^L tokens, A
action bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from shared.config import StageConfig
from shared.worldmodel.attention import by_hand
from shared.worldmodel.latent_actions import action_bits
from shared.worldmodel.layers import spatial_encoding
from shared.worldmodel.masking import drops_a_frame, last_frame_mask, strangers, tinyworlds_mask
from shared.worldmodel.quantizer import basis_of, latents_of
from shared.worldmodel.statistics import action_statistics
from shared.worldmodel.token_loss import TokenLoss
from shared.worldmodel.transformer import Cache, Experts, Hidden, TrainOutput, Transformer


class Dynamics(nn.Module):
    """Stage 3. A MaskGIT over tokens: hidden ones are predicted from the visible ones, causally in time.

    Without actions (`use_actions: false`) the layers that take them are frozen: they stay in the state
    dict and in the optimizer's numbering, and DDP waits for no gradient of theirs.
    """

    basis: Tensor
    action_basis: Tensor
    spatial_pe: Tensor

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        embed, bits = config.embed_dim, action_bits(config.n_actions)
        experts = Experts(config.num_experts, config.top_k_experts, config.moe_aux_loss_coeff)
        self.num_bins, self.n_actions = config.num_bins, config.n_actions
        self.masking, self.context_noise = config.dynamics_masking, config.context_noise
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, 1, config.latent_dim))
        self.latent_embed = nn.Linear(config.latent_dim, embed)
        self.transformer = Transformer(
            embed,
            config.num_heads,
            config.hidden_dim,
            config.num_blocks,
            condition_dim=bits,
            experts=experts if config.use_moe else None,
        )
        self.output_mlp = nn.Linear(embed, config.num_bins**config.latent_dim)
        grid = config.frame_size // config.patch_size
        self.register_buffer("spatial_pe", spatial_encoding(grid, embed), persistent=False)
        self.register_buffer("basis", basis_of(config.latent_dim, config.num_bins), persistent=False)
        self.register_buffer("action_basis", basis_of(bits, 2), persistent=False)
        if not config.use_actions:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(".to_gamma_beta." not in name)

    def forward(
        self, indices_btp: Tensor, bits_bta: Tensor | None, *, generator: torch.Generator
    ) -> TrainOutput:
        """Training: loss of predicting hidden tokens.

        Args:
            indices_btp: Tokens, int64.
            bits_bta: Actions of the T-1 transitions, or none.
            generator: Randomness of the update, on the CPU.
        """
        batch, frames, patches = indices_btp.shape
        if self.masking == "tinyworlds":
            mask_btp = tinyworlds_mask(batch, frames, patches, generator)
        else:
            if drops_a_frame(generator) and frames > 2:
                frames -= 1
            indices_btp = indices_btp[:, :frames]
            bits_bta = None if bits_bta is None else bits_bta[:, : frames - 1]
            mask_btp = last_frame_mask(batch, frames, patches, generator)
            if self.context_noise:
                indices_btp = strangers(indices_btp, self.context_noise, generator)
        loss = self.loss(indices_btp, bits_bta, mask_btp)
        return TrainOutput(
            loss, {} if bits_bta is None else action_statistics(self._codes(bits_bta), self.n_actions)
        )

    def loss(self, indices_btp: Tensor, bits_bta: Tensor | None, mask_btp: Tensor) -> Tensor:
        """Cross entropy averaged over the hidden tokens, plus the experts' balancing loss.

        Args:
            indices_btp: Tokens, int64.
            bits_bta: Actions of the T-1 transitions, or none.
            mask_btp: True where hidden; on the CPU, so that nothing waits for the device.
        """
        places = mask_btp.flatten().nonzero().squeeze(-1).to(indices_btp.device, non_blocking=True)
        mask = mask_btp.to(indices_btp.device, non_blocking=True).unsqueeze(-1)
        latents_btpl = torch.where(mask, self.mask_token, self.latents(indices_btp))
        hidden = self.hidden(latents_btpl, bits_bta)
        x_me, targets_m = hidden.x_btpe.flatten(0, 2)[places], indices_btp.flatten()[places]
        summed: Tensor
        if by_hand(x_me):
            summed = TokenLoss.apply(x_me, self.output_mlp.weight, self.output_mlp.bias, targets_m)  # type: ignore[no-untyped-call]
        else:
            summed = fn.cross_entropy(self.output_mlp(x_me), targets_m, reduction="sum")
        # a sum over at least one: the rare batch with nothing hidden has loss 0, not NaN
        loss = summed / max(places.numel(), 1)
        return loss if hidden.auxiliary is None else loss + hidden.auxiliary

    def hidden(
        self,
        latents_btpl: Tensor,
        bits_bta: Tensor | None,
        past: Cache | None = None,
        places_bm: Tensor | None = None,
    ) -> Hidden:
        """What the transformer makes of latents (the mask token where hidden); arguments as its `forward`."""
        x_btpe = self.latent_embed(latents_btpl) + self.spatial_pe
        return self.transformer(x_btpe, bits_bta, past, places_bm)  # type: ignore[no-any-return]

    def logits(self, latents_btpl: Tensor, bits_bta: Tensor | None) -> Tensor:
        """Scores of every token at every place: [B, T, P, V]."""
        return self.output_mlp(self.hidden(latents_btpl, bits_bta).x_btpe)  # type: ignore[no-any-return]

    def latents(self, indices: Tensor) -> Tensor:
        """Tokens [...] -> quantized latents [..., L]."""
        return latents_of(indices, self.basis, self.num_bins)

    def bits(self, codes: Tensor) -> Tensor:
        """Action codes [...] -> conditions: float32 [..., A] of -1 and +1, low bit first."""
        return latents_of(codes, self.action_basis, 2)

    def _codes(self, bits_bta: Tensor) -> Tensor:
        return ((bits_bta > 0) * self.action_basis).sum(-1)

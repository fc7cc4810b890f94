"""Whether the sound is there, from what a separator knows of it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PresenceHead(nn.Module):
    """Features of each frame, and the query, to the logit of the sound being there."""

    def __init__(self, channels: int, query_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.film = nn.Linear(query_dim, channels)
        self.conv1 = nn.Conv1d(channels, channels // 2, 1)
        self.conv2 = nn.Conv1d(channels // 2, 1, 1)

    def forward(self, x: Tensor, query: Tensor) -> Tensor:
        """[batch, channels, frames] and [batch, query_dim] to [batch, frames]."""
        y = F.relu(self.norm(x) + self.film(query)[:, :, None].to(x.dtype))
        return self.conv2(F.relu(self.conv1(y)))[:, 0].float()  # type: ignore[no-any-return]

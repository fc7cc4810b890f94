"""The MiniLM sentence encoder (6 layers, 384-d), in plain torch, stored in int8.

The source is sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): a six-layer BERT with mean
pooling over the tokens. ``transformers`` would need seconds to load it, at every start of the
command line. The network is only sixty lines long.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from singleout.encoders.tokens import check_parts, refusing
from singleout.errors import ModelError

MAX_TOKENS = 256
"""Longer texts are cut."""


class QuantizedEmbedding(nn.Module):
    """A table of int8 rows with a float scale for each row: a quarter of the memory of float32.

    Args:
        num_rows: number of rows.
        dim: length of a row.

    Example:
        >>> import torch
        >>> QuantizedEmbedding(10, 4)(torch.tensor([3, 7])).shape
        torch.Size([2, 4])
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, num_rows: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_rows, dim, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(num_rows, 1))

    def forward(self, index: Tensor) -> Tensor:
        return self.weight[index].float() * self.scale[index]


class Block(nn.Module):
    """A transformer layer with layer norms after its two parts.

    Args:
        dim: width of the tokens.
        num_heads: attention heads.
        hidden: width of the feed-forward layer.

    Example:
        >>> import torch
        >>> mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)  # no token is padding
        >>> Block(dim=8, num_heads=2, hidden=16)(torch.randn(2, 5, 8), mask).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=1e-12)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.output_norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.attention_norm(x + self.out(y.transpose(1, 2).reshape(b, n, d)))
        return self.output_norm(x + self.fc2(F.gelu(self.fc1(x))))  # type: ignore[no-any-return]


class MiniLM(nn.Module):
    """Sentences to 384-d vectors (not normalised).

    Args:
        vocabulary: number of word pieces.
        dim: width of the tokens and of the result.
        num_layers: transformer layers.
        num_heads: attention heads.
        hidden: width of the feed-forward layers.

    Example:
        >>> import torch
        >>> network = MiniLM(vocabulary=10, dim=8, num_layers=1, num_heads=2, hidden=16)
        >>> network(torch.tensor([[2, 5, 0]]), torch.tensor([[1, 1, 0]])).shape
        torch.Size([1, 8])
    """

    def __init__(
        self,
        vocabulary: int = 30_522,
        dim: int = 384,
        num_layers: int = 6,
        num_heads: int = 12,
        hidden: int = 1_536,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.words = QuantizedEmbedding(vocabulary, dim)
        # Zeros, because random numbers on the meta device import torch._dynamo: that takes seconds.
        self.positions = nn.Embedding(MAX_TOKENS, dim, _weight=torch.zeros(MAX_TOKENS, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.layers = nn.ModuleList(Block(dim, num_heads, hidden) for _ in range(num_layers))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embed tokens.

        Args:
            tokens: ids, int64 [batch, tokens].
            mask: int64 [batch, tokens], 0 for padding and 1 for all other tokens.

        Returns:
            float32 [batch, dim].

        Raises:
            ModelError: there is no such token.
        """
        if int(tokens.max()) >= len(self.words.weight):
            raise ModelError(
                f"the tokenizer is not the encoder's: it gives token {int(tokens.max()):,} of "
                f"{len(self.words.weight):,}"
            )
        x = self.words(tokens) + self.positions.weight[: tokens.shape[1]]
        x = self.norm(x)
        attend = mask[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, attend)
        weight = mask.unsqueeze(-1).to(x.dtype)
        mean: Tensor = (x * weight).sum(1) / weight.sum(1)
        return mean


def for_sentences(tokenizer: Tokenizer) -> Tokenizer:
    """Let a tokenizer pad each batch to its longest sentence, and cut at ``MAX_TOKENS``.

    Example:
        >>> from tokenizers.models import WordPiece
        >>> pieces = Tokenizer(WordPiece({"[PAD]": 0, "[UNK]": 1, "dog": 2}, unk_token="[UNK]"))
        >>> tokenize(for_sentences(pieces), ["dog"])
        (tensor([[2]]), tensor([[1]]))
    """
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer


def sentence_tokenizer(tokenizer_json: str) -> Tokenizer:
    """Make the tokenizer of sentences from the content of a ``tokenizer.json``.

    Raises:
        ModelError: the content is not a tokenizer, or see ``check_parts``.

    Example:
        >>> sentence_tokenizer("{}")
        Traceback (most recent call last):
        singleout.errors.ModelError: not a tokenizer: ...
    """
    with refusing("not a tokenizer"):
        tokenizer = Tokenizer.from_str(tokenizer_json)
    check_parts(tokenizer)
    return for_sentences(tokenizer)


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of sentences.

    Args:
        tokenizer: see ``for_sentences``.
        sentences: texts.

    Returns:
        Ids and mask, both int64 [sentences, tokens]. The mask is 0 for padding.

    Raises:
        ModelError: the tokenizer gives no tokens for a sentence, or too many.

    Example:
        >>> from tokenizers.models import WordPiece
        >>> pieces = Tokenizer(WordPiece({"[PAD]": 0, "[UNK]": 1, "dog": 2}, unk_token="[UNK]"))
        >>> tokenize(pieces, ["dog", "cat"])
        (tensor([[2],
                [1]]), tensor([[1],
                [1]]))
    """
    with refusing("the tokenizer fails"):
        encodings = tokenizer.encode_batch(list(sentences))
    ids = torch.tensor([e.ids for e in encodings])
    mask = torch.tensor([e.attention_mask for e in encodings])
    if not bool(mask.any(1).all()) or ids.shape[1] > MAX_TOKENS:
        raise ModelError(
            f"the tokenizer does not make 1 to {MAX_TOKENS} tokens of each text: it is damaged, or "
            "not for sentences"
        )
    return ids, mask


def from_bert_names(tensors: dict[str, Tensor], num_layers: int = 6) -> dict[str, Tensor]:
    """The tensors of a ``BertModel`` of transformers under the names of ``MiniLM``.

    The type embedding of a single sentence is added to every position. Query, key and value are
    joined, and the table of words is stored in int8.

    Args:
        tensors: by the names of ``BertModel``.
        num_layers: transformer layers.

    Example:
        >>> import torch
        >>> parts = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
        >>> tensors = {f"embeddings.{part}.weight": torch.ones(2, 4) for part in parts}
        >>> tensors["embeddings.LayerNorm.bias"] = torch.zeros(4)
        >>> from_bert_names(tensors, num_layers=0)["words.weight"].dtype
        torch.int8
    """
    table = tensors["embeddings.word_embeddings.weight"]
    scale = table.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    types = tensors["embeddings.token_type_embeddings.weight"][0]
    renamed = {
        "words.weight": (table / scale).round().to(torch.int8),
        "words.scale": scale,
        "positions.weight": tensors["embeddings.position_embeddings.weight"][:MAX_TOKENS] + types,
        "norm.weight": tensors["embeddings.LayerNorm.weight"],
        "norm.bias": tensors["embeddings.LayerNorm.bias"],
    }
    for i in range(num_layers):
        theirs, ours = f"encoder.layer.{i}.", f"layers.{i}."
        for kind in ("weight", "bias"):
            renamed[f"{ours}qkv.{kind}"] = torch.cat(
                [
                    tensors[f"{theirs}attention.self.{part}.{kind}"]
                    for part in ["query", "key", "value"]
                ]
            )
            for mine, other in (
                ("out", "attention.output.dense"),
                ("attention_norm", "attention.output.LayerNorm"),
                ("fc1", "intermediate.dense"),
                ("fc2", "output.dense"),
                ("output_norm", "output.LayerNorm"),
            ):
                renamed[f"{ours}{mine}.{kind}"] = tensors[f"{theirs}{other}.{kind}"]
    return renamed

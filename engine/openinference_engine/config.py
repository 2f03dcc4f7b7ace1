"""Settings of the engine, parsed once at the edge and immutable after.

One struct per concern. They are msgspec structs because `EngineConfig` travels from the API process
to the core process. Nothing below `__main__` reads flags or the environment.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from openinference_engine.errors import StartError
from openinference_engine.kv_formats import CacheFormat, KVCacheDtype
from openinference_engine.parsers.formats import CallFormatName

# How weights are kept; "auto" leaves them as they are stored. The CPU computes in float32, but for
# int8 products where weights are quantised.
DataType = Literal["auto", "float32", "bfloat16", "float16"]


Device = Literal["cpu", "cuda"]
WeightFormat = Literal["bfloat16", "fp8", "int8", "int4", "int4-zero"]  # of the matrices on a GPU
WeightChoice = Literal["auto", WeightFormat]  # auto: stored codes as they are, else bfloat16
# What products multiply on a GPU: bfloat16, or codes of eight bits as the weights are.
CodedActivations = Literal["fp8", "int8"]
ActivationChoice = Literal["auto", CodedActivations]  # auto: bfloat16; a CPU goes by its DataType

ReasoningFormat = Literal["none", "think"]


class RopeScaling(msgspec.Struct, frozen=True):
    """How rotary frequencies stretch beyond the trained length.

    `linear` divides every frequency by `factor`; `llama3` divides only the long waves
    (https://arxiv.org/abs/2407.21783, as published with Llama 3.1).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_positions: int = 8192


class ExpertsConfig(msgspec.Struct, frozen=True):
    """The sparse feed-forward blocks of a mixture of experts (arXiv:2401.04088)."""

    count: int
    per_token: int
    intermediate_size: int
    normalises_shares: bool  # the shares of a token's experts add up to 1
    part: tuple[int, int] = (0, 1)  # a rank has this one of so many equal parts of them

    @property
    def own(self) -> range:
        """The numbers of the experts that a rank has."""
        index, parts = self.part
        return range(self.count * index // parts, self.count * (index + 1) // parts)


class ModelConfig(msgspec.Struct, frozen=True):
    """The shape of a decoder-only transformer, whatever file it came from.

    Raises StartError if the numbers contradict each other.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rms_norm_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    ties_embeddings: bool = False
    experts: ExpertsConfig | None = None
    windows: tuple[int | None, ...] = ()  # by layer, the positions a token sees; empty: all see all

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise StartError(
                f"the model's config says {self.num_heads} query heads and {self.num_kv_heads} key "
                "heads; the first must be a multiple of the second"
            )
        if self.head_dim % 2:
            raise StartError(
                f"the model's config says heads of {self.head_dim}; use an even number"
            )
        if len(self.windows) not in (0, self.num_layers):
            raise StartError(
                f"the model's config says {self.num_layers} layers and the kind of attention of "
                f"{len(self.windows)}; fetch it again"
            )
        if self.experts is not None and self.experts.per_token > self.experts.count:
            raise StartError(
                f"the model's config says {self.experts.per_token} experts per token of "
                f"{self.experts.count}; use fewer"
            )

    @property
    def window(self) -> int | None:
        """The positions that the layers see at most; None: some layer sees all."""
        widest = [window for window in self.windows if window is not None]
        return max(widest) if widest and len(widest) == self.num_layers else None

    @property
    def layer_weights_per_token(self) -> int:
        """Weights of a layer that a token is multiplied by."""
        heads, inner = self.num_heads + self.num_kv_heads, self.intermediate_size
        if self.experts is not None:
            inner = self.experts.per_token * self.experts.intermediate_size
        return self.hidden_size * (2 * self.head_dim * heads + 3 * inner)

    @property
    def norms_heads(self) -> bool:
        """Whether query and key heads are normed before they are rotated."""
        return self.architecture.startswith("qwen3")

    def kv_bytes_per_token(self, cache_format: CacheFormat) -> int:
        return self.num_layers * self.num_kv_heads * cache_format.head_bytes(self.head_dim)


class GroupConfig(msgspec.Struct, frozen=True):
    """The ranks of one replica and where they meet (docs/wire.md, "A group of ranks").

    Raises StartError if the ranks do not fill the pods, or nobody said where pod 0 is.
    """

    pipeline: int = 1
    tensor: int = 1
    expert: int = 1
    pods: int = 1
    pod: int = 0  # this one's index
    rendezvous: str | None = None  # host:port of pod 0; None: a port of loopback
    rendezvous_timeout_seconds: float = 600.0
    image: str = ""  # of this pod, to be compared

    def __post_init__(self) -> None:
        if self.num_ranks % self.pods:
            raise StartError(
                f"--pods {self.pods} does not divide the {self.num_ranks} ranks of --pipeline "
                f"{self.pipeline}, --tensor {self.tensor} and --expert {self.expert}; give each "
                "pod an equal part"
            )
        if not 0 <= self.pod < self.pods:
            raise StartError(
                f"--pod-index {self.pod} is outside --pods {self.pods}; use 0 to {self.pods - 1}"
            )
        if self.pods > 1 and self.rendezvous is None:
            raise StartError(f"--pods {self.pods} needs --rendezvous, the host:port of pod 0")

    @property
    def num_ranks(self) -> int:
        return self.pipeline * self.tensor * self.expert

    @property
    def ranks_per_stage(self) -> int:
        return self.tensor * self.expert

    @property
    def ranks_per_pod(self) -> int:
        return self.num_ranks // self.pods

    def pod_of(self, rank: int) -> int:
        return rank // self.ranks_per_pod

    def ranks_of(self, pod: int) -> range:
        return range(pod * self.ranks_per_pod, (pod + 1) * self.ranks_per_pod)


class EngineConfig(msgspec.Struct, frozen=True):
    """What the core process needs to load a model and run steps."""

    model_uri: str
    max_model_len: int | None = None  # None: what the model was trained for
    max_sequences: int = 16
    dtype: DataType = "auto"
    device: Device = "cpu"
    weights: WeightChoice = "auto"  # only on a GPU: quantised while loading
    activations: ActivationChoice = "auto"
    uses_graphs: bool = True  # on a GPU, as the next two: they cost or save time, never a token
    overlaps_kernels: bool = True
    runs_ahead: bool = True
    is_deterministic: bool = False  # on a GPU: the same bits in every batch; a CPU always has that
    kv_cache_dtype: KVCacheDtype = "auto"
    # None: every seat full, at most a tenth of the memory, on a GPU what weights leave of it.
    kv_cache_bytes: int | None = None
    block_size: int = 16  # positions per cache block; kernels want a multiple of 16
    max_step_tokens: int = 512
    step_seconds: float = 0.25  # the token budget follows the measured speed to keep this
    prefix_caching: bool = True
    ageing_seconds: float = 30.0  # waiting this long is worth one class of priority
    queue_timeout_seconds: float | None = None  # longest wait for the first seat; None: any
    group: GroupConfig = GroupConfig()

    @property
    def weight_format(self) -> WeightFormat:
        """Of matrices on a GPU that nobody stored as codes."""
        return "bfloat16" if self.weights == "auto" else self.weights


class ServerConfig(msgspec.Struct, frozen=True):
    """What the API process needs to listen and to say who it is."""

    host: str = ""  # empty: all addresses of IPv4 and IPv6; a pod is reached by any of its own
    port: int = 8000
    served_model_name: str | None = None  # None: the file name of the model
    tool_parser: CallFormatName | None = None  # None: what the chat template shows
    reasoning_parser: ReasoningFormat | None = None
    token: str | None = None  # None: open, and internal fields are refused
    max_waiting: int = 256
    drain_timeout_seconds: float = 30.0
    max_body_bytes: int = 4 << 20
    client_timeout_seconds: float = 60.0  # for a body to arrive, and for a stream to be read on
    otlp_endpoint: str | None = None  # where spans go, over HTTP; None: there are none
    namespace: str = ""
    service: str = ""
    group: str = ""

"""Types of csrc/cpu/bindings.cpp. Addresses are `data_ptr()`; strides count elements."""

class Packed:
    """A weight matrix laid out for the kernels; owns its memory."""

    def __init__(self, format: str, stored: int, outputs: int, inputs: int) -> None: ...
    @property
    def format(self) -> str: ...
    @property
    def outputs(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...

class Experts:
    """The gate, up and down matrices of each expert. Raises ValueError if shapes do not fit."""

    def __init__(self, gates: list[Packed], ups: list[Packed], downs: list[Packed]) -> None: ...
    @property
    def hidden(self) -> int: ...

class Vectors:
    """Where all keys or all values of one layer lie; owns nothing."""

    def __init__(self, format: str, codes: int, numbers: int) -> None: ...

class Cache:
    """The cache of one layer; owns nothing."""

    def __init__(
        self,
        keys: Vectors,
        values: Vectors,
        num_blocks: int,
        kv_heads: int,
        head_dim: int,
        block_size: int,
    ) -> None: ...

class Operations:
    """Threads, scratch memory and the kernels of one instruction set (empty: the best there is)."""

    def __init__(self, threads: int, isa: str = "") -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def linear(
        self,
        weight: Packed,
        x: int,
        x_stride: int,
        rows: int,
        bias: int,
        out: int,
    ) -> None: ...
    def embedding(self, weight: Packed, ids: int, count: int, out: int) -> None: ...
    def rms_norm(
        self, x: int, x_stride: int, weight: int, epsilon: float, rows: int, n: int, out: int
    ) -> None: ...
    def silu_mul(self, gate_up: int, stride: int, rows: int, n: int, out: int) -> None: ...
    def rotate(
        self, x: int, stride: int, cosine: int, sine: int, rows: int, heads: int, head_dim: int
    ) -> None: ...
    def append_kv(
        self,
        key: int,
        key_stride: int,
        value: int,
        value_stride: int,
        cache: Cache,
        slots: int,
        rows: int,
    ) -> None: ...
    def paged_attention(
        self,
        query: int,
        query_stride: int,
        cache: Cache,
        count: int,
        starts: int,
        lengths: int,
        blocks: int,
        blocks_stride: int,
        heads: int,
        scale: float,
        window: int,
        rows: int,
        out: int,
    ) -> None: ...
    def route(
        self,
        logits: int,
        stride: int,
        experts: int,
        chosen: int,
        normalise: bool,
        rows: int,
        ids: int,
        shares: int,
    ) -> None: ...
    def experts(
        self,
        experts: Experts,
        x: int,
        stride: int,
        rows: int,
        ids: int,
        shares: int,
        chosen: int,
        out: int,
    ) -> None: ...

"""Token ids against transformers' tokenizer for the same file; text that comes in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openinference_engine.errors import RequestError, StartError
from openinference_engine.tokenizer.chat import ChatOptions, ChatTemplate
from openinference_engine.tokenizer.gguf_tokenizer import tokenizer_from_metadata
from openinference_engine.tokenizer.tokenizer import Detokenizer, Tokenizer, load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint

TEXTS = [
    "Hello, world!",
    "It's 2026; we've 12345 reasons, don't we?",
    "  leading and   inner    blanks \n\n\ttabs",
    "Größe, naïve, 日本語のテキスト, Привет, 🙂👩‍👩‍👧",
    "def f(x):\n    return x ** 2  # code",
    "<|im_start|>user\nhi<|im_end|>\n",
    "x = 1,000.50 + 7",
    "",
]


@pytest.fixture(scope="session")
def tokenizer(smollm2: GGUFCheckpoint, smollm2_path: Path) -> Tokenizer:
    return load_tokenizer(smollm2, smollm2_path)


@pytest.fixture(scope="session")
def oracle(smollm2_path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)


@pytest.fixture(scope="session")
def pieces() -> tuple[Any, Tokenizer]:
    """A small SentencePiece vocabulary, learned by the package, and ours from its scores alone."""
    from tokenizers import SentencePieceBPETokenizer

    trained = SentencePieceBPETokenizer()
    words = Path(__file__).read_text().split()
    trained.train_from_iterator([" ".join(words[i : i + 9]) for i in range(len(words))], 700)
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [piece for piece in learned if piece != "<unk>"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [float(-token_id) for token_id in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return trained, tokenizer_from_metadata(metadata)


@pytest.mark.parametrize("text", ["import the model", "def test x", "Token ids against the oracle"])
def test_pieces_are_split_as_they_were_learned(pieces: tuple[Any, Tokenizer], text: str) -> None:
    trained, ours = pieces
    ids = ours.encode(text)
    assert [ours.backend.id_to_token(token_id) for token_id in ids] == [
        "<s>",
        *trained.encode(text).tokens,
    ]


@pytest.mark.parametrize("text", ["import it", "Größe 日本 🙂", "  two  blanks "])
def test_pieces_and_bytes_come_back_as_text(pieces: tuple[Any, Tokenizer], text: str) -> None:
    _, ours = pieces
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    detokenizer = Detokenizer(ours)
    assert "".join(map(detokenizer.feed, ids)) + detokenizer.flush() == text


@pytest.mark.parametrize("cut", range(1, 6))
def test_text_goes_on_with_the_one_before_it(pieces: tuple[Any, Tokenizer], cut: int) -> None:
    """A text of its own begins without the blank that its first piece carries."""
    _, ours = pieces
    ids = ours.encode("import the model from")
    detokenizer = Detokenizer(ours, context=ids[:cut][-1:])
    assert ours.decode(ids[:cut]) + "".join(map(detokenizer.feed, ids[cut:])) == ours.decode(ids)


def test_a_character_that_the_text_before_cut_is_not_swallowed(tokenizer: Tokenizer) -> None:
    """Its rest is no character of its own; a sign stands for it, and what follows is whole."""
    ids = tokenizer.encode("🙂 and on")
    assert tokenizer.decode(ids[:1]) == "\ufffd"
    detokenizer = Detokenizer(tokenizer, context=ids[:1])
    text = "".join(map(detokenizer.feed, ids[1:])) + detokenizer.flush()
    assert text.startswith("\ufffd")
    assert text.endswith(" and on")


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_transformers(tokenizer: Tokenizer, oracle: Any, text: str) -> None:
    assert tokenizer.encode(text) == oracle.encode(text)


def test_chat_ids_equal_transformers(tokenizer: Tokenizer, oracle: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 12 + 30?"},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": "Sure?"},
    ]
    expected = oracle.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.encode_chat(messages) == expected


def test_every_number_sign_is_a_token_of_its_own(tokenizer: Tokenizer) -> None:
    """The model's own rule; transformers' GGUF reader leaves it out, so it cannot be the oracle."""
    parts = ["½", " ", "²", "x", "₁"]
    expected = [token_id for part in parts for token_id in tokenizer.encode(part)]
    assert tokenizer.encode("".join(parts)) == expected


# Control signs have no token in this vocabulary, and special tokens do not come back as text.
@given(
    st.text(
        st.characters(
            max_codepoint=0x1FFFF, exclude_categories=["Cc", "Cs"], exclude_characters="<"
        ),
        max_size=60,
    )
)
@settings(max_examples=2 * settings.default.max_examples)
def test_decoding_returns_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.integers(3, 49151), max_size=40))
@settings(max_examples=2 * settings.default.max_examples)
def test_pieces_add_up_to_the_whole(tokenizer: Tokenizer, token_ids: list[int]) -> None:
    """Any ids at all: characters may be cut anywhere and never become whole."""
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(token_id) for token_id in token_ids] + [detokenizer.flush()]
    assert "".join(pieces) == tokenizer.decode(token_ids)


def test_cut_character_waits_for_its_rest(tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode("🙂")
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(token_id) for token_id in token_ids]
    assert len(pieces) > 1
    assert pieces == [""] * (len(pieces) - 1) + ["🙂"]


def test_end_tokens_are_those_of_the_checkpoint(tokenizer: Tokenizer, tiny_llama: Path) -> None:
    assert tokenizer.end_token_ids == {2}
    assert load_tokenizer(open_checkpoint(tiny_llama), tiny_llama).end_token_ids == {257}


def test_folder_without_tokenizer_is_refused(tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(StartError, match=r"lacks tokenizer\.json"):
        load_tokenizer(open_checkpoint(tiny_llama), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "GGUF tokenizer 'bert' is unknown"),
        ({"tokenizer.ggml.pre": "new-rule"}, "'new-rule' is unknown; known are"),
    ],
)
def test_unknown_tokenizer_is_named(smollm2: GGUFCheckpoint, change: Any, message: str) -> None:
    with pytest.raises(StartError, match=message):
        tokenizer_from_metadata(smollm2.file.metadata | change)


def test_template_runs_in_a_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(RequestError, match="refuses them"):
        template.render([], ChatOptions())


def test_template_may_refuse_a_conversation() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(RequestError, match="refuses them: roles must alternate"):
        template.render([], ChatOptions())


def test_broken_template_is_told_at_start() -> None:
    with pytest.raises(StartError, match="chat template is broken"):
        ChatTemplate("{% if %}", {})

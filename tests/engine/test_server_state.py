"""What a server tells of itself: models, load, metrics, version, tokens."""

from __future__ import annotations

import json
import re

import httpx2
import openai

from tests.engine.test_api import QUESTION


def test_text_becomes_tokens_and_text_again(http: httpx2.Client) -> None:
    text = "Ahoj světe \U0001f600!"
    answer = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 512
    assert answer["token_strs"][0] == "A"
    back = http.post("/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text}


def test_conversation_is_tokenized_as_the_model_reads_it(http: httpx2.Client) -> None:
    asked = {"model": "smollm2", "messages": QUESTION}
    answer = http.post("/tokenize", json=asked).json()
    body = asked | {"max_tokens": 1}
    usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    assert answer["count"] == usage["prompt_tokens"] == 37
    text = http.post("/detokenize", json={"tokens": answer["tokens"]}).json()["prompt"]
    assert text.startswith("<|im_start|>system")
    assert text.endswith("<|im_start|>assistant\n")


def test_parts_of_a_message_are_lines(http: httpx2.Client) -> None:
    """Two parts, such as a document and a question, were glued together: `…endWhat is …?`."""
    parts = [{"type": "text", "text": text} for text in ("the end", "What is it?")]
    answers = [
        http.post("/tokenize", json={"messages": [{"role": "user", "content": content}]}).json()
        for content in (parts, "the end\nWhat is it?")
    ]
    assert answers[0] == answers[1]


def test_models_list_names_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]


def test_request_id_comes_back(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 1}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "abc"})
    assert answer.headers["x-request-id"] == "abc"
    answer = http.post("/v1/chat/completions", json=body | {"stream": True})
    assert answer.headers["x-request-id"]


def test_load_reports_state_and_change(http: httpx2.Client) -> None:
    with http.stream("GET", "/load") as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        report = json.loads(next(lines)[6:])
        assert set(report) == {
            *("group", "model", "ready", "draining", "stepAgeSeconds", "seats", "running"),
            *("waiting", "queuedTokens", "kvUsage", "prefillTokensPerSecond"),
            *("decodeTokensPerSecond", "resumeKey"),
        }
        assert (report["model"], report["ready"], report["seats"]) == ("smollm2", True, 2)
        assert report["prefillTokensPerSecond"] > 0
        assert len(report["resumeKey"]) == 32
        body = {"model": "smollm2", "messages": QUESTION, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body):  # until it is seen running
            assert any(json.loads(line[6:])["running"] == 1 for line in lines)
        assert any(json.loads(line[6:])["running"] == 0 for line in lines)


def test_metrics_have_their_names(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 3}
    http.post("/v1/chat/completions", json=body)
    text = http.get("/metrics").text
    for name in (
        'vllm:num_requests_running{engine="0",inference_namespace="",inference_service="",',
        "vllm:num_requests_waiting{",
        "vllm:kv_cache_usage_perc{",
        "vllm:generation_tokens_total{",
        "vllm:prompt_tokens_total{",
        "vllm:time_to_first_token_seconds_bucket{",
        "vllm:inter_token_latency_seconds_bucket{",
        "vllm:e2e_request_latency_seconds_bucket{",
        'vllm:request_success_total{engine="0",finished_reason="length",inference_namespace="",',
        'vllm:cache_config_info{block_size="16",cache_dtype="auto",',
        "vllm:request_queue_time_seconds_bucket{",
        "vllm:request_inference_time_seconds_bucket{",
        "vllm:request_prefill_kv_computed_tokens_bucket{",
        "vllm:request_max_num_generation_tokens_bucket{",
        "vllm:request_params_n_bucket{",
        "vllm:request_params_max_tokens_bucket{",
        "vllm:prompt_tokens_cached_total{",
        'openinference_requests_waiting{component="engine",inference_namespace="",',
        "openinference_requests_running{",
        "openinference_engine_steps_total{",
        "openinference_last_step_age_seconds{",
        "openinference_prefill_tokens_per_second{",
        "openinference_queued_tokens{",
        "openinference_start_stage_seconds{",
        'openinference_kernel_info{attention="',
    ):
        assert f"\n{name}" in text, name


def test_metrics_have_a_path_for_each_kind_of_op(http: httpx2.Client) -> None:
    """Products and attention of a slow path were in the log alone."""
    text = http.get("/metrics").text
    line = next(one for one in text.splitlines() if one.startswith("openinference_kernel_info{"))
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
    path = labels["path"]
    assert [labels[kind] for kind in ("products", "prompts", "attention")] == [path] * 3
    assert (labels["drawing"], labels["graphs"]) == ("host", "false")


def test_version_is_told(http: httpx2.Client) -> None:
    assert http.get("/version").json()["version"]

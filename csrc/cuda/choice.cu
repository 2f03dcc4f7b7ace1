// A step's last exchange: each rank has the logits of a part of the vocabulary, and all are to have all
// of them and to choose the same tokens.
#include "candidate.cuh"
#include "launch.cuh"
#include "team.cuh"

namespace openinference {
namespace {

constexpr int kThreads = 256;
constexpr int kLostToken = -2;

struct Logits {
    float* of[kMaxRanks];  // (tokens, vocabulary), its own first
    int count, first, vocabulary;
};

// Blocks of a row copy its logits; the last to end tells the row's likeliest token. Its word is behind
// the logits on their way: whoever has seen it may read them.
__global__ void __launch_bounds__(kThreads)
    push_choice_kernel(Exchange exchange, const float* logits, Logits whole, int part, const int* tokens,
                       int* counters) {
    const int token = blockIdx.y;
    release_successor();
    wait_for_predecessor();
    const float* row = logits + static_cast<size_t>(token) * part;
    const int copied = whole.count > 0 ? part : 0;
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < copied; i += gridDim.x * kThreads) {
        const float logit = row[i];
        const size_t at = static_cast<size_t>(token) * whole.vocabulary + whole.first + i;
#pragma unroll
        for (int rank = kMaxRanks - 1; rank >= 0; --rank)
            if (rank < whole.count) whole.of[rank][at] = logit;
    }
    block_barrier();
    if (threadIdx.x != 0) return;
    publish_to_peers();
    if (count_arrival(counters + token) != static_cast<int>(gridDim.x) - 1) return;
    counters[token] = 0;
    publish_to_peers();
    const int id = tokens[token];
    const uint32_t number = exchange.number();
    exchange.push(number, 2 * token, id < 0 ? 0 : bits_of(row[id]));
    exchange.push(number, 2 * token + 1, id < 0 ? kNoToken : id + whole.first);
}

// One thread per row.
__global__ void take_choice_kernel(Exchange exchange, int rows, int* tokens, int* positions) {
    const uint32_t number = exchange.number();
    release_successor();
    wait_for_predecessor();
    const int token = blockIdx.x * blockDim.x + threadIdx.x;
    if (token >= rows) return;
    float logits[kMaxRanks] = {};
    exchange.receive(number, 2 * token, [&](int rank, uint32_t word) { logits[rank] = float_of(static_cast<int>(word)); });
    Candidate best{0, kNoToken};
    exchange.receive(number, 2 * token + 1, [&](int rank, uint32_t word) {
        best = better(best, {logits[rank], static_cast<int>(word)});
    });
    const int position = positions[token];
    const bool is_lost = exchange.is_aborted();  // then no rule may draw either: draw_token passes over the row
    const bool is_running = position >= 0 && best.id != kNoToken && !is_lost;
    tokens[token] = is_lost ? kLostToken : is_running ? best.id : kNoToken;
    positions[token] = is_running ? position + 1 : -1;
}

struct AbortWords {
    int* of[kMaxRanks];
    int count;
};

// A rank that has waited in vain, or was told so, tells its peers: they need not find out by waiting.
__global__ void end_exchanges_kernel(uint32_t* ended, int count, const int* aborted, AbortWords peers) {
    wait_for_predecessor();
    release_successor();  // in this order: the next step reads the number before it waits
    if (threadIdx.x != 0) return;
    const bool is_aborted = *const_cast<const volatile int*>(aborted) != 0;
    *ended += count;
    if (!is_aborted) return;
#pragma unroll
    for (int i = 0; i < kMaxRanks; ++i)
        if (i < peers.count) *const_cast<volatile int*>(peers.of[i]) = 1;
}

}  // namespace

void push_choice(const Tensor& logits, int first, int vocabulary, const Tensor& tokens, const Team& team,
                 int exchange, const Tensor& counters, Stream stream) {
    const int64_t T = logits.length("logits", 0), part = logits.length("logits", 1);
    const auto* source = logits.as<float>("logits", {T, part});
    const auto* ids = tokens.as<int32_t>("tokens", {T});
    require(first >= 0 && first + part <= vocabulary,
            "logits: " + std::to_string(part) + " from " + std::to_string(first) + " on, of " + std::to_string(vocabulary));
    require(counters.length("counters", 0) >= T, "counters: fewer than tokens");
    if (T == 0) return;
    Logits whole{{}, static_cast<int>(team.logits.size()), first, vocabulary};
    for (int i = 0; i < whole.count; ++i) whole.of[i] = reinterpret_cast<float*>(team.logits[i]);
    const int64_t wanted = std::min<int64_t>((part + kThreads - 1) / kThreads, std::max<int64_t>(1, 64 / T));
    const int64_t blocks = whole.count > 0 ? wanted : 1;
    launch("push_choice", push_choice_kernel, dim3(blocks, T), kThreads, 0, stream,
           exchange_of("push_choice", team, exchange, 2 * T), source, whole, static_cast<int>(part), ids,
           counters.as<int32_t>("counters", {-1}));
}

void take_choice(const Team& team, int exchange, const Tensor& tokens, const Tensor& positions, Stream stream) {
    const int64_t T = tokens.length("tokens", 0);
    if (T == 0) return;
    launch("take_choice", take_choice_kernel, dim3((T + 31) / 32), 32, 0, stream,
           exchange_of("take_choice", team, exchange, 2 * T), static_cast<int>(T), tokens.as<int32_t>("tokens", {T}),
           positions.as<int32_t>("positions", {T}));
}

void end_exchanges(const Team& team, int count, Stream stream) {
    AbortWords peers{{}, static_cast<int>(team.peers_aborted.size())};
    require(peers.count < kMaxRanks, "team: more peers than ranks there can be");
    for (int i = 0; i < peers.count; ++i) peers.of[i] = reinterpret_cast<int*>(team.peers_aborted[i]);
    launch("end_exchanges", end_exchanges_kernel, dim3(1), 32, 0, stream, reinterpret_cast<uint32_t*>(team.ended), count,
           reinterpret_cast<const int*>(team.aborted), peers);
}

}  // namespace openinference

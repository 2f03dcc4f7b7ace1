// Runs a CUDA kernel's source on a CPU, one block after another, for tests of its logic.
//
// Each thread of a block is a fiber. A warp runs until its lanes wait for one another, so shuffles,
// tensor-core products and barriers mean what they mean on a GPU; a barrier that not all threads
// reach is an error, not a hang. Blocks and warps run in a shuffled, seeded order and shared memory
// starts as NaN, so that code which depends on order or on cleared memory fails. What this cannot
// show: data races between warps without a barrier, the memory model across blocks, and speed.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

constexpr int kWarpLanes = 32;
constexpr size_t kStackBytes = 128 * 1024;

enum class State { ready, at_warp_barrier, at_block_barrier, done };

// A fiber: entered once through its context, then switched by jumps, which need no system call.
struct Lane {
    ucontext_t context;
    jmp_buf place;
    bool has_started;
    State state;
    unsigned exchanges;  // warp-wide operations so far; its parity chooses the mailbox
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
};

// What a lane shows its warp during an exchange: a tensor-core product's four A and two B words.
struct Mail {
    uint32_t words[6];
};

class Block {
  public:
    static Block& current() {
        static Block block;
        return block;
    }

    void run(int threads, size_t shared_bytes, std::function<void()> body) {
        body_ = std::move(body);
        prepare(threads, shared_bytes);
        std::vector<int> order(threads / kWarpLanes);
        std::iota(order.begin(), order.end(), 0);
        while (!all(State::done)) {
            std::shuffle(order.begin(), order.end(), random_);
            for (int warp : order) run_warp(warp);
            if (all(State::at_block_barrier)) {
                release(0, threads_);
            } else if (!all(State::done)) {
                throw std::runtime_error("emulation: a barrier or warp operation is not reached by all threads");
            }
        }
    }

    void wait(State state) {
        Lane& lane = *lanes_[thread_];
        lane.state = state;
        if (_setjmp(lane.place) == 0) _longjmp(scheduler_, 1);
    }

    // Publishes this lane's mail and returns the mailbox of the whole warp.
    const Mail* exchange(const Mail& mail) {
        Lane& lane = *lanes_[thread_];
        Mail* box = mail_.data() + (lane.exchanges++ % 2) * threads_ + thread_ / kWarpLanes * kWarpLanes;
        box[thread_ % kWarpLanes] = mail;
        wait(State::at_warp_barrier);
        return box;
    }

    void* shared() { return shared_.data(); }

  private:
    void prepare(int threads, size_t shared_bytes) {
        threads_ = threads;
        shared_.assign(shared_bytes / 16 + 1, {~0ull, ~0ull});
        mail_.assign(2 * threads, Mail{});
        while (static_cast<int>(lanes_.size()) < threads) lanes_.push_back(std::make_unique<Lane>());
        for (int i = 0; i < threads; ++i) {
            Lane& lane = *lanes_[i];
            getcontext(&lane.context);
            lane.context.uc_stack = {lane.stack.get(), 0, kStackBytes};
            lane.state = State::ready;
            lane.has_started = false;
            lane.exchanges = 0;
            makecontext(&lane.context, &Block::enter, 0);
        }
    }

    static void enter() {
        Block& block = current();
        block.body_();
        block.lanes_[block.thread_]->state = State::done;
        _longjmp(block.scheduler_, 1);
    }

    void run_warp(int warp) {
        const int first = warp * kWarpLanes, end = first + kWarpLanes;
        do {
            for (int i = first; i < end; ++i)
                if (lanes_[i]->state == State::ready) resume(i);
        } while (release_warp(first, end));
    }

    void resume(int thread) {
        thread_ = thread;
        threadIdx = dim3(thread, 0, 0);
        Lane& lane = *lanes_[thread];
        if (_setjmp(scheduler_) != 0) return;
        if (lane.has_started) _longjmp(lane.place, 1);
        lane.has_started = true;
        setcontext(&lane.context);
    }

    bool release_warp(int first, int end) {
        for (int i = first; i < end; ++i)
            if (lanes_[i]->state != State::at_warp_barrier) return false;
        release(first, end);
        return true;
    }

    void release(int first, int end) {
        for (int i = first; i < end; ++i) lanes_[i]->state = State::ready;
    }

    bool all(State state) const {
        return std::all_of(lanes_.begin(), lanes_.begin() + threads_,
                           [&](const auto& lane) { return lane->state == state; });
    }

    struct alignas(16) Chunk {
        uint64_t words[2];
    };

    int threads_ = 0, thread_ = 0;
    jmp_buf scheduler_;
    std::function<void()> body_;
    std::vector<std::unique_ptr<Lane>> lanes_;
    std::vector<Mail> mail_;
    std::vector<Chunk> shared_;
    std::mt19937 random_{1};
};

inline void run_grid(dim3 grid, int threads, size_t shared_bytes, const std::function<void()>& body) {
    std::vector<unsigned> order(grid.x * grid.y * grid.z);
    std::iota(order.begin(), order.end(), 0u);
    std::mt19937 random(static_cast<unsigned>(order.size()));
    std::shuffle(order.begin(), order.end(), random);
    gridDim = grid;
    blockDim = dim3(threads);
    for (unsigned index : order) {
        blockIdx = dim3(index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y));
        Block::current().run(threads, shared_bytes, body);
    }
}

}  // namespace simt

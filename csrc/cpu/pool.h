// A few threads that share out the pieces of one operation at a time.
//
// Pieces are taken in turn by whoever is free, the caller included, so a thread that the system took
// away delays nobody else. A thread without work looks for some for `kSpinMicroseconds` (operations
// of a step follow within microseconds), then sleeps: an idle engine uses no processor.
// Who computes a piece never changes its result.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace openinference::cpu {

class Pool {
public:
    // At least one: the caller.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls work(begin, end, thread) until [0, count) is covered, `piece` at a time; returns when
    // all calls have. One caller at a time.
    template <class Work> void share(int64_t count, int64_t piece, Work work) {
        const auto call = [](void* context, int64_t begin, int64_t end, int thread) {
            (*static_cast<Work*>(context))(begin, end, thread);
        };
        run({call, &work, count, piece < 1 ? 1 : piece});
    }

private:
    struct Job {
        void (*call)(void* context, int64_t begin, int64_t end, int thread);
        void* context;
        int64_t count, piece;
    };
    void run(const Job& job);
    void take_pieces(int thread);
    void work(int thread);
    bool await_job(uint32_t* last_job);

    std::vector<std::thread> workers_;
    Job job_{};
    std::atomic<int64_t> next_{0};
    std::atomic<uint32_t> job_number_{0};
    std::atomic<bool> is_open_{false};  // job_ may be read by threads that are `busy_`
    std::atomic<int> busy_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<bool> is_ending_{false};
    std::mutex mutex_;
    std::condition_variable wakes_;
};

}  // namespace openinference::cpu

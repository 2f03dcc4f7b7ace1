#include "pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace openinference::cpu {
namespace {

constexpr int kSpinMicroseconds = 200;  // longer than the Python between two operations of a step
constexpr int kPausesPerLook = 16;

void pause_briefly() {
#if defined(__x86_64__)
    for (int i = 0; i < kPausesPerLook; ++i) _mm_pause();
#else
    std::this_thread::yield();
#endif
}

}  // namespace

Pool::Pool(int threads) {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
}

Pool::~Pool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_ending_ = true;
    }
    wakes_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

// The order of the flags makes it safe: a worker first says that it is busy, then looks whether the
// job is open; the caller first closes the job, then waits until nobody is busy.
void Pool::run(const Job& job) {
    job_ = job;
    next_ = 0;
    if (workers_.empty() || job.count <= job.piece) return take_pieces(0);
    is_open_ = true;
    ++job_number_;
    if (sleeping_ > 0) {
        const std::lock_guard<std::mutex> lock(mutex_);  // whoever is about to sleep sees the number
        wakes_.notify_all();
    }
    take_pieces(0);
    is_open_ = false;
    for (int looks = 0; busy_ > 0; ++looks) looks < 1000 ? pause_briefly() : std::this_thread::yield();
}

void Pool::take_pieces(int thread) {
    for (;;) {
        const int64_t begin = next_.fetch_add(job_.piece);
        if (begin >= job_.count) return;
        const int64_t end = begin + job_.piece < job_.count ? begin + job_.piece : job_.count;
        job_.call(job_.context, begin, end, thread);
    }
}

void Pool::work(int thread) {
    uint32_t last_job = 0;
    while (await_job(&last_job)) {
        ++busy_;
        if (is_open_) take_pieces(thread);
        --busy_;
    }
}

// False when the pool ends.
bool Pool::await_job(uint32_t* last_job) {
    using Clock = std::chrono::steady_clock;
    const auto has_news = [&] { return job_number_ != *last_job || is_ending_; };
    const auto until = Clock::now() + std::chrono::microseconds(kSpinMicroseconds);
    while (!has_news() && Clock::now() < until) pause_briefly();
    if (!has_news()) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleeping_;
        wakes_.wait(lock, has_news);
        --sleeping_;
    }
    *last_job = job_number_;
    return !is_ending_;
}

}  // namespace openinference::cpu

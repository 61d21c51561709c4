// The thread pool: created at the first launch that can use it, shared by all launches, gone and rebuilt in a forked child.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <list>
#include <mutex>
#include <thread>

#include "device.h"

namespace emu {
namespace {

struct Posted {
    Job* job;
    uint32_t wanted;       // helpers that may still join
    uint32_t running = 0;  // helpers at work
    std::exception_ptr failure;
};

// Work may run out of memory; the launching thread passes it on when nobody uses the job any more.
std::exception_ptr attempt(Job& job) {
    try {
        job.work();
        return nullptr;
    } catch (...) {
        return std::current_exception();
    }
}

struct Pool {
    std::mutex mutex;
    std::condition_variable wake, finished;
    std::list<Posted*> jobs;
    uint32_t threads = 0;

    void helper() {
        std::unique_lock<std::mutex> lock(mutex);
        for (;;) {
            const auto open = std::find_if(jobs.begin(), jobs.end(), [](const Posted* p) { return p->wanted > 0; });
            if (open == jobs.end()) {
                wake.wait(lock);
                continue;
            }
            Posted& posted = **open;
            --posted.wanted, ++posted.running;
            lock.unlock();
            const std::exception_ptr failure = attempt(*posted.job);
            lock.lock();
            if (failure) posted.failure = failure;
            // `posted` lives on the launching thread's stack until the last helper has left it.
            if (--posted.running == 0) finished.notify_all();
        }
    }

    void grow(uint32_t helpers) {
        for (; threads < helpers; ++threads) std::thread([this] { helper(); }).detach();
    }
};

Pool* pool_instance = nullptr;
std::mutex& pool_guard() {
    static std::mutex* const instance = [] {
        auto* made = new std::mutex;
        guard_innermost(*made);
        // The helpers do not exist in a forked child: it starts without a pool and leaves the parent's copy behind.
        after_fork([] { pool_instance = nullptr; });
        return made;
    }();
    return *instance;
}

Pool& pool() {
    std::lock_guard<std::mutex> lock(pool_guard());
    if (!pool_instance) pool_instance = new Pool;
    return *pool_instance;
}

std::atomic<uint32_t> thread_count{0};

}  // namespace

uint32_t pool_threads() {
    if (const uint32_t known = thread_count) return known;
    cpu_set_t cpus;
    const uint32_t found = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? static_cast<uint32_t>(CPU_COUNT(&cpus)) : std::thread::hardware_concurrency();
    return thread_count = std::clamp<uint32_t>(found, 1, 256);
}

void set_pool_threads(uint32_t threads) { thread_count = std::min<uint32_t>(threads, 256); }

void run_job(Job& job, uint32_t useful_threads) {
    const uint32_t helpers = std::min(useful_threads, pool_threads()) - 1;
    if (useful_threads < 2 || helpers == 0) {
        job.work();
        return;
    }
    Pool& p = pool();
    Posted posted{&job, helpers, 0, nullptr};
    {
        std::lock_guard<std::mutex> lock(p.mutex);
        p.grow(helpers);
        p.jobs.push_back(&posted);
    }
    if (helpers == 1) p.wake.notify_one();
    else p.wake.notify_all();
    const std::exception_ptr failure = attempt(job);
    std::unique_lock<std::mutex> lock(p.mutex);
    p.jobs.remove(&posted);
    p.finished.wait(lock, [&] { return posted.running == 0; });
    if (failure || posted.failure) std::rethrow_exception(failure ? failure : posted.failure);
}

}  // namespace emu

// The thread pool: created at the first launch that can use it, shared by all launches, gone and rebuilt in a forked child.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "launch.h"

namespace emu {
namespace {

struct Posted {
    Job* job;
    uint32_t wanted;       // helpers that may still join
    uint32_t running = 0;  // helpers at work
};

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
            posted.job->work();
            lock.lock();
            // `posted` lives on the launching thread's stack until the last helper has left it.
            if (--posted.running == 0) finished.notify_all();
        }
    }

    void grow(uint32_t helpers) {
        for (; threads < helpers; ++threads) std::thread([this] { helper(); }).detach();
    }
};

Pool* pool_instance = nullptr;
std::mutex* pool_guard = new std::mutex;
uint32_t thread_count = 0;

void before_fork() {
    pool_guard->lock();
    if (pool_instance) pool_instance->mutex.lock();
}
void after_fork_in_parent() {
    if (pool_instance) pool_instance->mutex.unlock();
    pool_guard->unlock();
}
// The helpers do not exist in the child: it starts without a pool and leaves the parent's copy behind.
void after_fork_in_child() {
    pool_instance = nullptr;
    pool_guard = new std::mutex;
}

Pool& pool() {
    std::lock_guard<std::mutex> lock(*pool_guard);
    static const int registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    (void)registered;
    if (!pool_instance) pool_instance = new Pool;
    return *pool_instance;
}

}  // namespace

uint32_t pool_threads() {
    if (thread_count == 0) {
        cpu_set_t cpus;
        thread_count = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? static_cast<uint32_t>(CPU_COUNT(&cpus)) : std::thread::hardware_concurrency();
        thread_count = std::clamp<uint32_t>(thread_count, 1, 256);
    }
    return thread_count;
}

void set_pool_threads(uint32_t threads) { thread_count = std::min<uint32_t>(threads, 256); }

void run_job(Job& job, uint32_t useful_threads) {
    const uint32_t helpers = std::min(useful_threads, pool_threads()) - 1;
    if (useful_threads < 2 || helpers == 0) {
        job.work();
        return;
    }
    Pool& p = pool();
    Posted posted{&job, helpers};
    {
        std::lock_guard<std::mutex> lock(p.mutex);
        p.grow(helpers);
        p.jobs.push_back(&posted);
    }
    if (helpers == 1) p.wake.notify_one();
    else p.wake.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(p.mutex);
    p.jobs.remove(&posted);
    p.finished.wait(lock, [&] { return posted.running == 0; });
}

}  // namespace emu

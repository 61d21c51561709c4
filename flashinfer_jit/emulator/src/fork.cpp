// fork() copies locks as they are, but only one thread: what another thread held would stay locked for ever in the child.
#include "fork.h"

#include <pthread.h>

#include <new>
#include <vector>

namespace emu {
namespace {

struct Guarded {
    std::mutex* plain;
    std::shared_mutex* shared;
};

struct Guards {
    std::mutex mutex;
    std::vector<Guarded> locks;
    std::vector<void (*)()> in_child;
};
Guards& guards() {
    static Guards* const instance = new Guards;
    return *instance;
}

void before() {
    guards().mutex.lock();
    for (const Guarded& g : guards().locks) g.plain ? g.plain->lock() : g.shared->lock();
}

void in_parent() {
    for (auto g = guards().locks.rbegin(); g != guards().locks.rend(); ++g) g->plain ? g->plain->unlock() : g->shared->unlock();
    guards().mutex.unlock();
}

// The child may not unlock: a shared mutex remembers the thread that locked it.
void in_child() {
    for (const Guarded& g : guards().locks) {
        if (g.plain) new (g.plain) std::mutex;
        else new (g.shared) std::shared_mutex;
    }
    new (&guards().mutex) std::mutex;
    for (const auto run : guards().in_child) run();
}

void add(Guarded guarded) {
    std::lock_guard<std::mutex> lock(guards().mutex);
    static const int registered = pthread_atfork(before, in_parent, in_child);
    (void)registered;
    guards().locks.push_back(guarded);
}

}  // namespace

void guard_for_fork(std::mutex& lock) { add({&lock, nullptr}); }
void guard_for_fork(std::shared_mutex& lock) { add({nullptr, &lock}); }
void after_fork(void (*run)()) {
    std::lock_guard<std::mutex> lock(guards().mutex);
    guards().in_child.push_back(run);
}

}  // namespace emu

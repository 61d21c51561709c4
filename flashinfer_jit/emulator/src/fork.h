// Locks that must not be held by a vanished thread in a forked child.
#pragma once
#include <mutex>
#include <shared_mutex>

namespace emu {

// Has fork() wait for the lock and give the child a fresh one. For locks that live as long as the process. A lock guarded earlier may be
// held while one guarded later is taken, never the other way round.
void guard_for_fork(std::mutex& lock);
void guard_for_fork(std::shared_mutex& lock);
// Called in a forked child before anything else runs.
void after_fork(void (*in_child)());

}  // namespace emu

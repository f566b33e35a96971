/* sim_memory.cpp - the devices' memory: a range of addresses of its own, closed to the host. */
#include "sim_impl.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(at_, size_) __asan_poison_memory_region(at_, size_)
#define UNPOISON(at_, size_) __asan_unpoison_memory_region(at_, size_)
#else
#define POISON(at_, size_) ((void)(at_), (void)(size_))
#define UNPOISON(at_, size_) ((void)(at_), (void)(size_))
#endif

namespace
{
const size_t RANGE = (size_t)1 << 36; /* bytes of addresses */
const size_t ALIGN = 256;             /* of an allocation */
const size_t PAGE = 4096;

struct block {
    size_t bytes, room; /* asked for; taken, with what keeps the next one away */
    int device;
};

char *base;      /* of the range */
size_t top;      /* bytes of it that were ever used */
size_t open_end; /* bytes of it that may be touched now */
int opened = 1;  /* how often; one of it stands for not being guarded */
bool guarded;
std::map<char *, block> blocks; /* in use */
std::map<char *, size_t> holes; /* given back, below top */
std::map<int, size_t> used;

void protect(size_t from, size_t to, int how)
{
    if (to > from && mprotect(base + from, to - from, how) != 0) {
        perror("cudasim: mprotect");
        abort();
    }
}

/* The end of what is in use, in whole pages. */
size_t live_end()
{
    if (blocks.empty())
        return 0;
    auto last = blocks.rbegin();
    return ((size_t)(last->first - base) + last->second.room + PAGE - 1) / PAGE * PAGE;
}

char *find_room(size_t room)
{
    for (auto hole = holes.begin(); hole != holes.end(); ++hole) {
        if (hole->second < room)
            continue;
        char *at = hole->first;
        size_t rest = hole->second - room;
        holes.erase(hole);
        if (rest > 0)
            holes[at + room] = rest;
        return at;
    }
    if (RANGE - top < room)
        return nullptr;
    char *at = base + top;
    top = (top + room + PAGE - 1) / PAGE * PAGE;
    if ((size_t)(base + top - at) > room)
        holes[at + room] = (size_t)(base + top - at) - room;
    return at;
}

/* Joins a hole with its neighbours. */
void add_hole(char *at, size_t room)
{
    auto next = holes.lower_bound(at);
    if (next != holes.end() && at + room == next->first) {
        room += next->second;
        next = holes.erase(next);
    }
    if (next != holes.begin()) {
        auto before = std::prev(next);
        if (before->first + before->second == at) {
            before->second += room;
            return;
        }
    }
    holes[at] = room;
}
} // namespace

void *sim_memory_take(int device, size_t bytes)
{
    if (!base) {
        void *range =
            mmap(nullptr, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED)
            return nullptr;
        base = static_cast<char *>(range);
    }
    size_t room = (bytes + ALIGN - 1) / ALIGN * ALIGN + ALIGN;
    char *at = find_room(room);
    if (!at)
        return nullptr;
    blocks[at] = {bytes, room, device};
    used[device] += bytes;
    sim_memory_open();
    if (live_end() > open_end) {
        protect(open_end, live_end(), PROT_READ | PROT_WRITE);
        open_end = live_end();
    }
    UNPOISON(at, room);
    memset(at, sim_mode.poison, bytes);
    POISON(at + bytes, room - bytes);
    sim_memory_close();
    return at;
}

bool sim_memory_give(void *memory)
{
    auto found = blocks.find(static_cast<char *>(memory));
    if (found == blocks.end())
        return false;
    POISON(found->first, found->second.room);
    used[found->second.device] -= found->second.bytes;
    add_hole(found->first, found->second.room);
    blocks.erase(found);
    return true;
}

size_t sim_memory_used(int device)
{
    return used[device];
}

bool sim_memory_owns(const void *memory)
{
    const char *at = static_cast<const char *>(memory);
    return base && at >= base && at < base + RANGE;
}

void sim_memory_open(void)
{
    if (opened++ > 0 || !base)
        return;
    open_end = live_end();
    protect(0, open_end, PROT_READ | PROT_WRITE);
}

void sim_memory_guard(bool on)
{
    if (on == guarded)
        return;
    guarded = on;
    if (on)
        sim_memory_close();
    else
        sim_memory_open();
}

void sim_memory_close(void)
{
    if (--opened > 0 || !base)
        return;
    protect(0, open_end, PROT_NONE);
    open_end = 0;
}

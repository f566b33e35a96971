/* sim_kernel.cpp - runs kernels: blocks one after the other, the threads of a block as fibres. */
#include "sim.h"

#include "sim_impl.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define NO_ASAN __attribute__((no_sanitize("address")))
#else
#define NO_ASAN
#endif

sim_thread *sim_self;

namespace
{
const size_t STACK = 256 * 1024, STATIC_SHARED = 48 * 1024, MOST_SHARED = 227 * 1024;
const int MOST_THREADS = 1024;

enum state { READY, AT_WARP, AT_BLOCK, DONE };

struct async_copy {
    void *to;
    const void *from;
    int bytes, from_bytes, group;
};

struct fibre : sim_thread {
    void *stack_pointer;
    char *stack;
    state what;
    const char *file; /* where it waits, */
    int line;
    unsigned mask; /* with these lanes, */
    void *data;    /* bringing this */
    sim_complete *complete;
    int bring;
    std::vector<async_copy> copies; /* that have not landed */
    int group;                      /* of the next copies */
    void *fake_stack;
};

struct shared_piece {
    const char *key;
    int line;
    std::unique_ptr<char[]> memory; /* of exactly the size, so that a sanitizer sees its end */
    char *at;
    size_t size;
};

/* The kernel that runs; one at a time. */
struct running {
    const char *name;
    std::function<void()> *body;
    int threads;
    std::vector<shared_piece> shared;
    size_t shared_bytes, dynamic_bytes, most_bytes; /* of both together */
    std::unique_ptr<char[]> dynamic_memory;
    char *dynamic;
    int block_result; /* of the last barrier */
} now;

std::vector<fibre> fibres(MOST_THREADS);
fibre *self;
void *main_stack;
#if defined(__SANITIZE_ADDRESS__)
const void *main_bottom;
size_t main_size;
void *main_fake;
#endif

/* ---- switching ------------------------------------------------------------------------------- */

#if defined(__x86_64__)
extern "C" void sim_switch(void **save, void *to);
asm(".text\n"
    ".globl sim_switch\n"
    ".type sim_switch,@function\n"
    "sim_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp,(%rdi)\n"
    "  movq %rsi,%rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size sim_switch,.-sim_switch\n");
const int SAVED = 6;
#elif defined(__aarch64__)
extern "C" void sim_switch(void **save, void *to);
asm(".text\n"
    ".globl sim_switch\n"
    ".type sim_switch,%function\n"
    "sim_switch:\n"
    "  sub sp,sp,#160\n"
    "  stp x19,x20,[sp,#0]\n  stp x21,x22,[sp,#16]\n  stp x23,x24,[sp,#32]\n"
    "  stp x25,x26,[sp,#48]\n  stp x27,x28,[sp,#64]\n  stp x29,x30,[sp,#80]\n"
    "  stp d8,d9,[sp,#96]\n  stp d10,d11,[sp,#112]\n  stp d12,d13,[sp,#128]\n"
    "  stp d14,d15,[sp,#144]\n"
    "  mov x9,sp\n  str x9,[x0]\n  mov sp,x1\n"
    "  ldp x19,x20,[sp,#0]\n  ldp x21,x22,[sp,#16]\n  ldp x23,x24,[sp,#32]\n"
    "  ldp x25,x26,[sp,#48]\n  ldp x27,x28,[sp,#64]\n  ldp x29,x30,[sp,#80]\n"
    "  ldp d8,d9,[sp,#96]\n  ldp d10,d11,[sp,#112]\n  ldp d12,d13,[sp,#128]\n"
    "  ldp d14,d15,[sp,#144]\n"
    "  add sp,sp,#160\n"
    "  ret\n");
#else
#error "the simulator switches fibres on x86-64 and aarch64"
#endif

NO_ASAN void to_main(bool for_ever)
{
#if defined(__SANITIZE_ADDRESS__)
    fibre *own = self;
    __sanitizer_start_switch_fiber(for_ever ? nullptr : &own->fake_stack, main_bottom, main_size);
    sim_switch(&own->stack_pointer, main_stack);
    __sanitizer_finish_switch_fiber(own->fake_stack, &main_bottom, &main_size);
#else
    (void)for_ever;
    sim_switch(&self->stack_pointer, main_stack);
#endif
}

NO_ASAN void to_fibre(fibre *f)
{
    self = f;
    sim_self = f;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&main_fake, f->stack, STACK);
    sim_switch(&main_stack, f->stack_pointer);
    __sanitizer_finish_switch_fiber(main_fake, nullptr, nullptr);
#else
    sim_switch(&main_stack, f->stack_pointer);
#endif
}

/* Where a fibre begins; it never returns. */
NO_ASAN void begin()
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
#endif
    (*now.body)();
    self->what = DONE;
    to_main(true);
    abort();
}

void make_stacks()
{
    if (fibres[0].stack)
        return;
    size_t each = STACK + 4096; /* a page below each that nobody may touch */
    void *all = mmap(nullptr, each * MOST_THREADS, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) {
        perror("cudasim: stacks");
        abort();
    }
    for (int i = 0; i < MOST_THREADS; i++) {
        char *low = static_cast<char *>(all) + each * (size_t)i;
        mprotect(low, 4096, PROT_NONE);
        fibres[(size_t)i].stack = low + 4096;
    }
}

void prepare(fibre *f)
{
    void **top = reinterpret_cast<void **>(f->stack + STACK);
#if defined(__x86_64__)
    *--top = nullptr; /* so that the stack is aligned as after a call */
    *--top = reinterpret_cast<void *>(begin);
    for (int i = 0; i < SAVED; i++)
        *--top = nullptr;
#else
    top -= 20;
    for (int i = 0; i < 20; i++)
        top[i] = nullptr;
    top[11] = reinterpret_cast<void *>(begin); /* x30 */
#endif
    f->stack_pointer = top;
    f->what = READY;
    f->copies.clear();
    f->group = 0;
}

/* ---- waiting --------------------------------------------------------------------------------- */

[[noreturn]] void wrong_v(const char *file, int line, const char *fmt, va_list list)
{
    fprintf(stderr, "cudasim: kernel %s", now.name ? now.name : "?");
    if (self)
        fprintf(stderr, ", block (%u, %u, %u), thread %u", self->block.x, self->block.y,
                self->block.z, self->thread.x);
    fprintf(stderr, ", %s:%d: ", file, line);
    vfprintf(stderr, fmt, list);
    fprintf(stderr, "\n");
    abort();
}

bool same_place(const fibre *a, const fibre *b)
{
    return a->line == b->line && (a->file == b->file || strcmp(a->file, b->file) == 0);
}

/* Lets the lanes of a mask go on if all of them are there. */
void try_warp(fibre *one)
{
    fibre *lanes = &fibres[(size_t)(one->warp * 32)];
    void *data[32] = {nullptr};
    for (int lane = 0; lane < 32; lane++) {
        if (!(one->mask >> lane & 1))
            continue;
        fibre *f = &lanes[lane];
        if (one->warp * 32 + lane >= now.threads)
            sim_wrong(one->file, one->line, "the mask %#x names lane %d, which the block has not",
                      one->mask, lane);
        if (f->what == DONE)
            sim_wrong(one->file, one->line, "the mask %#x names lane %d, which has returned",
                      one->mask, lane);
        if (f->what != AT_WARP)
            return;
        if (f->mask != one->mask || !same_place(f, one))
            return; /* it may come here later; if it never does that is found below */
        data[lane] = f->data;
    }
    if (one->complete)
        one->complete(one->mask, data);
    for (int lane = 0; lane < 32; lane++)
        if (one->mask >> lane & 1)
            lanes[lane].what = READY;
}

/* Nobody can go on: all wait at one barrier, or it is an error. */
void try_block()
{
    fibre *first = nullptr;
    int sum = 0;
    for (int i = 0; i < now.threads; i++) {
        fibre *f = &fibres[(size_t)i];
        if (f->what == AT_WARP)
            sim_wrong(f->file, f->line,
                      "lane %d of warp %d waits for the lanes %#x, of which some "
                      "wait elsewhere",
                      f->lane, f->warp, f->mask);
        if (f->what == AT_BLOCK && !first)
            first = f;
    }
    for (int i = 0; i < now.threads; i++) {
        fibre *f = &fibres[(size_t)i];
        if (f->what == DONE)
            sim_wrong(first->file, first->line,
                      "a barrier that thread %d never reaches: it has "
                      "returned",
                      i);
        if (!same_place(f, first))
            sim_wrong(first->file, first->line,
                      "a barrier while thread %d waits at another, line "
                      "%d",
                      i, f->line);
        sum += f->bring;
    }
    now.block_result = sum;
    for (int i = 0; i < now.threads; i++)
        fibres[(size_t)i].what = READY;
}

/* ---- a block --------------------------------------------------------------------------------- */

/* A walk over 0..n-1 in a drawn order. */
struct walk {
    int n, at, step;
    explicit walk(int count) : n(count)
    {
        uint64_t r = sim_random();
        at = (int)(r % (uint64_t)n);
        step = (int)((r >> 32) % (uint64_t)n);
        if (r >> 63)
            step = n - 1; /* downwards, now and then */
        while (step < 1 || std::gcd(step, n) != 1)
            step = step % n + 1;
    }
    int next()
    {
        int i = at;
        at = (int)(((int64_t)at + step) % n);
        return i;
    }
};

void run_block()
{
    for (auto &piece : now.shared)
        memset(piece.at, sim_mode.poison, piece.size);
    for (int i = 0; i < now.threads; i++)
        prepare(&fibres[(size_t)i]);
    for (int left = now.threads; left > 0;) {
        bool moved = false;
        walk order(now.threads);
        for (int k = 0; k < now.threads; k++) {
            fibre *f = &fibres[(size_t)order.next()];
            if (f->what != READY)
                continue;
            moved = true;
            to_fibre(f);
            left -= f->what == DONE;
            if (f->what == AT_WARP)
                try_warp(f);
        }
        if (!moved)
            try_block();
    }
    self = nullptr;
}

void place(fibre *f, dim3 blocks, dim3 threads, int64_t block, int index)
{
    unsigned i = (unsigned)index;
    f->thread = {i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y};
    f->block = {(unsigned)(block % blocks.x), (unsigned)(block / blocks.x % blocks.y),
                (unsigned)(block / blocks.x / blocks.y)};
    f->block_dim = threads;
    f->grid_dim = blocks;
    f->lane = index % 32;
    f->warp = index / 32;
}

void run_kernel(const char *name, dim3 blocks, dim3 threads, size_t shared, size_t most,
                std::function<void()> &body)
{
    int64_t count = (int64_t)blocks.x * blocks.y * blocks.z;
    make_stacks();
    sim_memory_open();
    now.name = name;
    now.body = &body;
    now.threads = (int)(threads.x * threads.y * threads.z);
    now.shared_bytes = 0;
    now.dynamic_bytes = shared;
    now.most_bytes = most;
    now.dynamic_memory.reset(new char[shared + 16]);
    uintptr_t behind = reinterpret_cast<uintptr_t>(now.dynamic_memory.get()) + 16;
    now.dynamic = reinterpret_cast<char *>(behind / 16 * 16);
    int64_t first = (int64_t)(sim_random() % (uint64_t)count);
    for (int64_t b = 0; b < count; b++) {
        int64_t block = (first + b) % count;
        memset(now.dynamic, sim_mode.poison, shared);
        for (int i = 0; i < now.threads; i++)
            place(&fibres[(size_t)i], blocks, threads, block, i);
        run_block();
    }
    now.shared.clear();
    now.name = nullptr;
    sim_memory_close();
}

std::map<const void *, int> &asked_shared() /* kernels that may have more shared memory */
{
    static std::map<const void *, int> map;
    return map;
}

struct warp_value {
    unsigned result;
    uint64_t value;
};
struct reduce_value {
    int64_t value;
    int what;
};
} // namespace

void sim_wrong(const char *file, int line, const char *fmt, ...)
{
    va_list list;
    va_start(list, fmt);
    wrong_v(file, line, fmt, list);
}

void *sim_shared(const char *key, int line, size_t size, size_t align)
{
    for (auto &piece : now.shared)
        if (piece.line == line && piece.key == key)
            return piece.at;
    now.shared_bytes += size;
    if (now.shared_bytes > STATIC_SHARED || now.shared_bytes + now.dynamic_bytes > now.most_bytes)
        sim_wrong(key, line, "%zu bytes of shared memory beside %zu dynamic ones are more than %zu",
                  now.shared_bytes, now.dynamic_bytes, now.most_bytes);
    shared_piece piece = {key, line, nullptr, nullptr, size};
    size_t room = align > 16 ? align : 16;
    piece.memory.reset(new char[size + room]);
    /* the end of the piece is the end of the allocation */
    uintptr_t at = reinterpret_cast<uintptr_t>(piece.memory.get()) + room;
    piece.at = reinterpret_cast<char *>(at / room * room);
    memset(piece.at, sim_mode.poison, size);
    now.shared.push_back(std::move(piece));
    return now.shared.back().at;
}

void *sim_shared_dynamic(void)
{
    return now.dynamic;
}

int sim_block(const char *file, int line, int bring)
{
    fibre *own = self;
    own->what = AT_BLOCK;
    own->file = file;
    own->line = line;
    own->bring = bring;
    to_main(false);
    return now.block_result;
}

void sim_warp(const char *file, int line, unsigned mask, void *data, sim_complete *complete)
{
    fibre *own = self;
    if (!(mask >> own->lane & 1))
        sim_wrong(file, line, "lane %d calls with a mask %#x that it is not in", own->lane, mask);
    own->what = AT_WARP;
    own->file = file;
    own->line = line;
    own->mask = mask;
    own->data = data;
    own->complete = complete;
    to_main(false);
}

void sim_syncwarp(const char *file, int line, unsigned mask)
{
    sim_warp(file, line, mask, nullptr, nullptr);
}

static void complete_ballot(unsigned mask, void *const *data)
{
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && static_cast<warp_value *>(data[lane])->value)
            result |= 1u << lane;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            static_cast<warp_value *>(data[lane])->result = result;
}

unsigned sim_ballot(const char *file, int line, unsigned mask, int predicate)
{
    warp_value value = {0, predicate != 0};
    sim_warp(file, line, mask, &value, complete_ballot);
    return value.result;
}

static void complete_match(unsigned mask, void *const *data)
{
    for (int a = 0; a < 32; a++) {
        if (!(mask >> a & 1))
            continue;
        warp_value *own = static_cast<warp_value *>(data[a]);
        for (int b = 0; b < 32; b++)
            if (mask >> b & 1 && static_cast<warp_value *>(data[b])->value == own->value)
                own->result |= 1u << b;
    }
}

unsigned sim_match(const char *file, int line, unsigned mask, uint64_t x)
{
    warp_value value = {0, x};
    sim_warp(file, line, mask, &value, complete_match);
    return value.result;
}

static int64_t reduced(int what, int64_t a, int64_t b)
{
    switch (what) {
    case '+':
        return a + b;
    case '<':
        return a < b ? a : b;
    case '>':
        return a > b ? a : b;
    case '|':
        return a | b;
    default:
        return a & b;
    }
}

static void complete_reduce(unsigned mask, void *const *data)
{
    bool begun = false;
    int64_t sum = 0;
    for (int lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1))
            continue;
        reduce_value *own = static_cast<reduce_value *>(data[lane]);
        sum = begun ? reduced(own->what, sum, own->value) : own->value;
        begun = true;
    }
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1)
            static_cast<reduce_value *>(data[lane])->value = sum;
}

int64_t sim_reduce(const char *file, int line, unsigned mask, int64_t x, int what)
{
    reduce_value value = {x, what};
    sim_warp(file, line, mask, &value, complete_reduce);
    return value.value;
}

/* ---- copies that land later ------------------------------------------------------------------ */

void sim_async_copy(void *to, const void *from, int bytes, int from_bytes)
{
    memset(to, sim_mode.poison, (size_t)bytes); /* whoever looks too early sees it */
    self->copies.push_back({to, from, bytes, from_bytes, self->group});
}

void sim_async_commit(void)
{
    self->group++;
}

void sim_async_wait(int groups_left)
{
    std::vector<async_copy> later;
    for (const async_copy &c : self->copies) {
        if (c.group >= self->group - groups_left) {
            later.push_back(c);
            continue;
        }
        memcpy(c.to, c.from, (size_t)c.from_bytes);
        memset(static_cast<char *>(c.to) + c.from_bytes, 0, (size_t)(c.bytes - c.from_bytes));
    }
    self->copies.swap(later);
}

/* ---- launches -------------------------------------------------------------------------------- */

extern "C" cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute,
                                            int value)
{
    std::lock_guard<std::recursive_mutex> guard(sim_lock);
    cudaError_t error = sim_call();
    if (error != cudaSuccess)
        return error;
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || (size_t)value > MOST_SHARED) {
            sim_set_last(cudaErrorInvalidValue);
            return cudaErrorInvalidValue;
        }
        asked_shared()[kernel] = value;
    }
    return cudaSuccess;
}

void sim_launch(const void *kernel, const char *name, dim3 blocks, dim3 threads, size_t shared,
                cudaStream_t stream, std::function<void()> body)
{
    std::lock_guard<std::recursive_mutex> guard(sim_lock);
    if (sim_call() != cudaSuccess)
        return;
    size_t most = STATIC_SHARED;
    auto asked = asked_shared().find(kernel);
    bool more = asked != asked_shared().end();
    if (more && (size_t)asked->second > most)
        most = (size_t)asked->second;
    int64_t count = (int64_t)threads.x * threads.y * threads.z;
    if (count < 1 || count > MOST_THREADS || shared > most || blocks.x < 1 ||
        blocks.x > 0x7fffffffu || blocks.y < 1 || blocks.y > 65535 || blocks.z < 1 ||
        blocks.z > 65535 || threads.z > 64) {
        sim_set_last(cudaErrorInvalidConfiguration);
        return;
    }
    sim_count_launch();
    most = more ? MOST_SHARED : STATIC_SHARED; /* with the kernel's own arrays */
    sim_enqueue(stream, [=]() mutable {
        cudaError_t fault = sim_fault_launch();
        if (fault == cudaSuccess)
            run_kernel(name, blocks, threads, shared, most, body);
        else
            sim_fail_sticky(fault);
    });
}

/* bench_pipeline.c - the yardstick for a run from file to file: the same bytes read and written by
 * the same threads in the same pieces, and nothing done in between.
 *
 *   pare_bench_pipeline IN OUT RATIO [THREADS] [PIECE_KIB]
 *
 * reads IN in pieces (512 KiB), writes RATIO of each piece's bytes to its place in a fresh OUT,
 * syncs OUT as a run does, and prints one line of JSON: bytes, seconds, seconds of the sync, GB/s
 * of input.
 */
#include "pare/backend.h"
#include "pare/sched.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct pipeline {
    int in, out;
    int64_t size, piece;
    double ratio;
    char **buffers;
} pipeline;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int64_t piece_size(const pipeline *p, int64_t item)
{
    int64_t rest = p->size - item * p->piece;
    return rest < p->piece ? rest : p->piece;
}

static pare_status read_stage(void *user, int worker, int64_t item)
{
    pipeline *p = user;
    int64_t size = piece_size(p, item);
    return pread(p->in, p->buffers[worker], (size_t)size, item * p->piece) == size ? PARE_OK
                                                                                   : PARE_ERR_IO;
}

static pare_status write_stage(void *user, int worker, int64_t item)
{
    pipeline *p = user;
    int64_t begin = (int64_t)((double)(item * p->piece) * p->ratio);
    int64_t end = (int64_t)((double)(item * p->piece + piece_size(p, item)) * p->ratio);
    return pwrite(p->out, p->buffers[worker], (size_t)(end - begin), begin) == end - begin
               ? PARE_OK
               : PARE_ERR_IO;
}

static int fail(const char *what)
{
    fprintf(stderr, "pare_bench_pipeline: %s: %s\n", what, strerror(errno));
    return 1;
}

static int run(pipeline *p, int threads)
{
    pare_sched *sched = NULL;
    if (pare_sched_create(&(pare_sched_options){.threads = threads}, &sched) != PARE_OK)
        return fail("scheduler");
    double begin = now();
    pare_status status =
        pare_sched_run(sched, &(pare_job){.name = "copy",
                                          .items = (p->size + p->piece - 1) / p->piece,
                                          .stages = {{.name = "read", .run = read_stage},
                                                     {.name = "write", .run = write_stage}},
                                          .user = p});
    double copied = now();
    if (status == PARE_OK && fdatasync(p->out) != 0)
        status = PARE_ERR_IO;
    double end = now();
    pare_sched_free(&sched);
    if (status != PARE_OK)
        return fail("copy");
    printf("{\"read_bytes\": %lld, \"write_bytes\": %lld, \"threads\": %d, \"seconds\": %.4f, "
           "\"sync_seconds\": %.4f, \"input_gbs\": %.3f, \"input_gbs_without_sync\": %.3f}\n",
           (long long)p->size, (long long)((double)p->size * p->ratio), threads, end - begin,
           end - copied, (double)p->size / (end - begin) / 1e9,
           (double)p->size / (copied - begin) / 1e9);
    return 0;
}

int main(int argc, char **argv)
{
    struct stat st;
    if (argc < 4) {
        fprintf(stderr, "usage: pare_bench_pipeline IN OUT RATIO [THREADS] [PIECE_KIB]\n");
        return 2;
    }
    int threads = argc > 4 ? atoi(argv[4]) : pare_cpu_count();
    pipeline p = {.ratio = atof(argv[3]),
                  .piece = (argc > 5 ? atoi(argv[5]) : 512) * (int64_t)1024};
    p.in = open(argv[1], O_RDONLY);
    p.out = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0666);
    if (p.in < 0 || p.out < 0 || fstat(p.in, &st) != 0)
        return fail(p.in < 0 ? argv[1] : argv[2]);
    p.size = st.st_size;
    if (ftruncate(p.out, (off_t)((double)p.size * p.ratio)) != 0)
        return fail(argv[2]);
    p.buffers = calloc((size_t)threads, sizeof *p.buffers);
    for (int i = 0; p.buffers && i < threads; i++)
        p.buffers[i] = aligned_alloc(4096, (size_t)p.piece);
    int result = run(&p, threads);
    for (int i = 0; p.buffers && i < threads; i++)
        free(p.buffers[i]);
    free(p.buffers);
    close(p.in);
    close(p.out);
    return result;
}

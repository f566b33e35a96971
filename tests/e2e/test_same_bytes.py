"""The same bytes whatever the threads, the memory, the instruction set, the container of the
input."""
# labels: quick
import models
from support import folder, main, pare, read, tree

JOBS = [
    ("prune", "--method", "magnitude", "--sparsity", "0.5", "--scope", "global"),
    ("prune", "--method", "magnitude", "--pattern", "2:4"),
    ("prune", "--method", "magnitude", "--pattern", "block:4x8", "--sparsity", "0.4"),
    ("quantize", "--method", "rtn", "--scheme", "w4g32z"),
    ("quantize", "--method", "rtn", "--scheme", "w4", "--scale", "mse"),
    ("quantize", "--method", "rtn", "--scheme", "w8t"),
    ("quantize", "--method", "rtn", "--scheme", "nf4"),
    ("quantize", "--method", "rtn", "--scheme", "nf4d"),
    ("quantize", "--method", "rtn", "--scheme", "fp8"),
]


def product(path):
    """An output's bytes; the report beside it tells of times and threads and is left out."""
    return tree(path)


def run(job, source, out, *extra, **options):
    pare(job[0], source, "-o", out, *job[1:], *extra, **options)
    return product(out)


def isas():
    """Those that this machine has, from what `pare devices` says."""
    from support import pare_json
    return [isa["name"] for isa in pare_json("devices")["cpu"]["isas"] if isa["available"]]


def variants_agree(ending):
    with folder() as work:
        source = models.llama(work / "m", "BF16")
        for number, job in enumerate(JOBS):
            first = run(job, source, work / f"{number}-first{ending}")
            variants = [(f"t{n}", ["--threads", n], {}) for n in (1, 2, 7)]
            variants += [(f"m{size}", ["--memory", size], {}) for size in ("8M", "64M", "2G")]
            variants += [(isa, [], {"PARE_ISA": isa}) for isa in isas()]
            variants += [("again", [], {})]
            for name, extra, env in variants:
                got = run(job, source, work / f"{number}-{name}{ending}", *extra, env=env)
                assert got == first, f"{' '.join(job)}: {name} gives other bytes"
    return f"{len(variants)} variants of {len(JOBS)} jobs"


def directories():
    return variants_agree("")


def single_files():
    return variants_agree(".safetensors")


def native_checkpoints():
    return variants_agree(".h5")


def a_large_tensor_in_many_pieces():
    import numpy as np
    from support import tensor, write
    with folder() as work:
        rng = np.random.default_rng(5)
        tensors = {"wide.weight": tensor("F32", rng.standard_normal((3, 700001))),
                   "tall.weight": tensor("F32", rng.standard_normal((300007, 5))),
                   "big.weight": tensor("F32", rng.standard_normal((2048, 1024)))}
        source = work / "s.safetensors"
        write(source, tensors)
        for number, job in enumerate(JOBS):
            want = run(job, source, work / f"{number}.safetensors", "--threads", 1)
            for threads, isa in ((2, "base"), (7, isas()[0])):
                out = work / f"{number}-{threads}.safetensors"
                assert run(job, source, out, "--threads", threads, env={"PARE_ISA": isa}) == want
                out.unlink()


def sharded_input_gives_the_same_tensors():
    with folder() as work:
        whole, shards = models.llama(work / "one"), models.llama(work / "many", shards=4)
        for number, job in enumerate(JOBS):
            run(job, whole, work / f"{number}-one")
            run(job, shards, work / f"{number}-many")
            assert read(work / f"{number}-one") == read(work / f"{number}-many"), job


def a_sharded_output_holds_the_same_tensors():
    with folder() as work:
        source = models.llama(work / "m")
        for number, job in enumerate(JOBS):
            run(job, source, work / f"{number}-one")
            run(job, source, work / f"{number}-many", "--max-shard-size", "300K")
            names = [p.name for p in (work / f"{number}-many").glob("*.safetensors")]
            assert read(work / f"{number}-one") == read(work / f"{number}-many"), job
    assert len(names) > 1, names


main([directories, single_files, native_checkpoints, a_large_tensor_in_many_pieces,
      sharded_input_gives_the_same_tensors, a_sharded_output_holds_the_same_tensors])

"""Compression with data by several processes: as one alone but for rounding, the same bytes again,
and after kills; told by all when one fails. --cuda: on devices, a few of these."""
import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import numpy as np
from support import LONG, PARE, folder, main, pare, read, skip, tensor, tree, write

if not shutil.which("mpirun"):
    skip("mpirun is not installed")

CUDA = "--cuda" in sys.argv
KILLS = 60 if LONG else 6
D, HIDDEN, LAYERS, HEADS, KV, VOCABULARY = 96, 192, 3, 6, 2, 128
DATA = ("--data", "tokens.u16", "--seq-len", "64", "--samples", "32", "--batch", "8",
        "--threads", "1", "--device", "cuda" if CUDA else "cpu", "--errors")
GPTQ = ("quantize", "model", "-o", "{out}", "--method", "gptq", "--scheme", "w4g32", *DATA)
JOBS = [  # with the ending of the output
    (GPTQ, ""),
    (("prune", "model", "-o", "{out}", "--method", "sparsegpt", "--pattern", "2:4", *DATA), ".h5"),
    (("prune", "model", "-o", "{out}", "--method", "wanda", "--sparsity", "0.5", "--propagate",
      "dense", *DATA), ".safetensors"),
    (("quantize", "model", "-o", "{out}", "--method", "awq", "--scheme", "w4g32", *DATA), ".h5"),
    (("quantize", "model", "-o", "{out}", "--method", "smoothquant", "--scheme", "w8a8s",
      "--no-true-sequential", *DATA), ""),
]
STEPS = ("run", "recipe.yaml", "-o", "{out}", "--threads", "1", "--device", "cpu")
RECIPE = """
model: model
data: { calibration: tokens.u16, eval: tokens.u16 }
steps:
  - prune:    { method: wanda, pattern: "2:4", samples: 30, seq_len: 64 }
  - eval:     { seq_len: 64, samples: 8 }
  - quantize: { method: gptq, scheme: w8a8, samples: 30, seq_len: 64 }
  - eval:     { seq_len: 64, samples: 8 }
"""


def source(work, name="model", spoil=None, samples=32):
    rng = np.random.default_rng(7)
    tensors = {}

    def add(tensor_name, *shape):
        values = rng.standard_normal(shape, np.float32) * 0.08
        if tensor_name == spoil:
            values[2, 7] = np.nan
        tensors[tensor_name] = tensor("BF16", values)

    def ones(tensor_name):
        tensors[tensor_name] = tensor("BF16", np.ones(D, np.float32))

    add("model.embed_tokens.weight", VOCABULARY, D)
    ones("model.norm.weight")
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        ones(layer + "input_layernorm.weight")
        ones(layer + "post_attention_layernorm.weight")
        for part, rows in ("q", D), ("k", D * KV // HEADS), ("v", D * KV // HEADS), ("o", D):
            add(f"{layer}self_attn.{part}_proj.weight", rows, D)
        add(layer + "mlp.gate_proj.weight", HIDDEN, D)
        add(layer + "mlp.up_proj.weight", HIDDEN, D)
        add(layer + "mlp.down_proj.weight", D, HIDDEN)
    write(work / name / "model.safetensors", tensors)
    (work / name / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": D,
        "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV, "vocab_size": VOCABULARY, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True}))
    rng.integers(0, VOCABULARY, 64 * samples + 1).astype("<u2").tofile(work / "tokens.u16")


def launched(processes, command):
    """The command line of so many processes, and their environment."""
    options = ["-n", str(processes), "--oversubscribe", "--bind-to", "none"]
    if os.geteuid() == 0:
        options.append("--allow-run-as-root")
    environment = {**os.environ, "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
                   "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TMPDIR": "/tmp"}
    return ["mpirun", *options, PARE, *map(str, command)], environment


def ranks(processes, command, work, well=True):
    """Runs it to the end; fails unless it ends well, or badly. Gives what was said."""
    line, environment = launched(processes, command)
    done = subprocess.run(line, cwd=work, env=environment, capture_output=True, text=True,
                          timeout=120)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == well, f"{' '.join(line)}\n{said[-3000:]}"
    return said


def layers(work, out):
    report = json.loads(pare("report", out, "--json", cwd=work).stdout)
    return {layer["name"]: layer["error_after"] for layer in report["layers"]}, report


def named(job, out):
    return [word.format(out=out) for word in job]


def left(work, out):
    return [path.name for path in work.glob(f"{out}.*") if path.name != f"{out}.report.json"]


def several_do_what_one_does():
    worst = most = 0
    with folder() as work:
        source(work)
        for number, (job, ending) in enumerate(JOBS[:1] if CUDA else JOBS):
            pare(*named(job, f"one{number}{ending}"), cwd=work)
            alone, _ = layers(work, f"one{number}{ending}")
            for processes in (2,) if CUDA else (2, 4):
                out, again = (f"{word}{number}.{processes}{ending}" for word in ("out", "again"))
                ranks(processes, named(job, out), work)
                if processes == 4 or CUDA:
                    ranks(processes, named(job, again), work)
                    assert tree(work / out) == tree(work / again), f"{job}: other bytes again"
                assert not left(work, out), left(work, out)
                together, report = layers(work, out)
                assert together.keys() == alone.keys()
                # A choice between weights that are all but equal may fall the other way.
                off = abs(sum(together.values()) / sum(alone.values()) - 1)
                one = max(abs(together[name] / alone[name] - 1) for name in alone)
                worst, most = max(worst, off), max(most, one)
                assert off < 0.01 and one < 0.1, f"{job}, {processes} processes: {off}, {one}"
                assert report["ranks"]["count"] == processes
                assert CUDA or report["actual"]["peak_memory"] <= report["predicted"]["peak_memory"]
    return f"mean errors differ by {worst:.1e} at most, a layer's by {most:.1e}"


def a_recipe_of_several_steps_is_shared():
    with folder() as work:
        source(work)
        (work / "recipe.yaml").write_text(RECIPE)
        ranks(3, named(STEPS, "out.h5"), work)
        ranks(3, named(STEPS, "again.h5"), work)
        assert tree(work / "out.h5") == tree(work / "again.h5")
        assert not left(work, "out.h5"), left(work, "out.h5")


def work_that_cannot_be_shared_is_the_first_ones():
    with folder() as work:
        source(work)
        command = ("quantize", "model", "-o", "{out}", "--scheme", "w4g32", "--threads", "1",
                   "--device", "cpu")
        pare(*named(command, "one.h5"), cwd=work)
        ranks(2, named(command, "two.h5"), work)
        assert tree(work / "one.h5") == tree(work / "two.h5")


def children(process):
    """Our program's processes below mpirun."""
    found = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True,
                           text=True)
    return [int(word) for word in found.stdout.split()]


def started(command, processes, work):
    line, environment = launched(processes, command)
    with open(work / "said.txt", "w") as said:
        return subprocess.Popen(line, cwd=work, env=environment, stdout=said, stderr=said)


def remove(out):
    """An output, if it is there."""
    if out.is_file():
        out.unlink()
    shutil.rmtree(out, ignore_errors=True)


def kill(process, victims):
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:  # mpirun may miss one that dies while it is being started
        assert not children(process), "the others go on"
        process.kill()
        process.wait()


def cut(command, processes, work, after, whole):
    """Starts it and kills one of its processes, or all; False if it was done before."""
    process = started(command, processes, work)
    try:
        code = process.wait(after)
        assert code == 0, (work / "said.txt").read_text()[-3000:]
        return False
    except subprocess.TimeoutExpired:
        pass
    victims = children(process)
    if whole:
        kill(process, [*victims, process.pid])
    else:
        kill(process, random.sample(victims, min(1, len(victims))))
    return True


def cut_when(command, processes, work, ready, after=0):
    """Starts it and kills all of it once, or so many seconds after, that is so; what it said."""
    process = started(command, processes, work)
    victims = []
    while process.poll() is None and not ready():
        victims = victims if len(victims) == processes else children(process)
    time.sleep(after)
    kill(process, victims)
    return (work / "said.txt").read_text()


def killed_walks_end_with_the_same_bytes():
    random.seed(5)
    kills = runs = 0
    with folder() as work:
        source(work)
        (work / "recipe.yaml").write_text(RECIPE)
        want, spans = [], []
        chosen = [JOBS[0], JOBS[1], JOBS[3], (STEPS, ".h5")]
        for number, (job, ending) in enumerate(chosen):
            began = time.monotonic()
            ranks(4, named(job, f"uncut{number}{ending}"), work)
            spans.append(time.monotonic() - began)
            want.append(tree(work / f"uncut{number}{ending}"))
        while kills < KILLS:
            number = runs % len(chosen)
            job, ending = chosen[number]
            out = f"cut{runs}{ending}"
            after = random.uniform(0.3, 0.95) * spans[number]
            while cut(named(job, out), 4, work, after, kills % 3 == 2):
                kills += 1
                after = random.uniform(0.4, 1.4) * spans[number]
                if (work / out).exists() and not left(work, out):
                    break  # killed when all was done but the exit
            assert tree(work / out) == want[number], f"{job}: other bytes after a kill"
            assert not left(work, out), left(work, out)
            runs += 1
    return f"{kills} kills, {runs} finished runs"


LAYER, BLOCK, DEALT = 65, 66, 68  # of walk_journal.c
BLOCKS = 2 * LAYERS  # attention and products after it are one each


def journalled(work, out):
    """How many records of each kind there are."""
    try:
        journal = (work / f"{out}.journal").read_bytes()
    except FileNotFoundError:
        journal = b""
    found, at = collections.Counter(), 24
    while at + 16 <= len(journal):
        record, size = struct.unpack_from("<II", journal, at)
        found[record] += 1
        at += 16 + size
    return found


def hidden(work, out):
    """The states of all samples that go into the block that comes next, and how many processes
    have them."""
    name = f"hidden.{journalled(work, out)[BLOCK] % 2}"
    files = sorted((work / f"{out}.walk").glob(f"deal.*/rank.*/{name}"))
    return b"".join(path.read_bytes() for path in files), len(files)


def deals(work, out):
    return [number for number in (0, 1) if (work / f"{out}.walk" / f"deal.{number}").exists()]


def goes_on(work, out, command, uncut, numbers):
    """Begun by the first number of processes, cut in the third block; cut by each of the next once
    it has dealt all out anew; ended by the last. What was done before a cut is as it was."""
    while not 2 <= journalled(work, out)[BLOCK] < BLOCKS:
        remove(work / out)
        cut_when(command, numbers[0], work,
                 lambda: journalled(work, out)[BLOCK] >= 2 and journalled(work, out)[LAYER] > 8)
    done, (states, count) = journalled(work, out)[BLOCK], hidden(work, out)
    assert count == numbers[0]
    for dealt, (was, number) in enumerate(zip(numbers, numbers[1:])):
        said = cut_when(command, number, work, lambda: journalled(work, out)[DEALT] > dealt and
                        len(deals(work, out)) == 1)
        assert journalled(work, out)[DEALT] == dealt + 1, said[-2000:]
        wanted = f"begun with {was} process.*goes on with {number}: {done} of {BLOCKS} blocks"
        assert re.search(wanted, said), said[-2000:]
        assert hidden(work, out) == (states, number), "other hidden states"
    said = ranks(4, [*command, "--threads", "2"], work, well=False)
    assert "was begun with 1 thread" in said and "now it is 2 threads" in said, said[-2000:]
    ranks(numbers[-1], command, work)
    assert not left(work, out), left(work, out)
    for name, values in read(work / out).items():
        assert "layers.0" not in name or values == uncut[name], f"{name}: other bytes"


def another_number_of_processes_goes_on():
    worst = 0
    with folder() as work:
        source(work, samples=256)
        for job, ending, numbers, more in ((GPTQ, "", (4, 2, 1, 3), ()),
                                           (JOBS[3][0], ".safetensors", (1, 3, 2), ("--sync",))):
            out, uncut = f"out{ending}", f"uncut{ending}"
            many = [*job, "--samples", "256", *more]
            ranks(numbers[0], named(many, uncut), work)
            goes_on(work, out, named(many, out), read(work / uncut), numbers)
            wanted, errors = layers(work, uncut)[0], layers(work, out)[0]
            off = abs(sum(errors.values()) / sum(wanted.values()) - 1)
            worst = max(worst, off)
            assert errors.keys() == wanted.keys() and off < 0.01, off
    return f"mean errors differ by {worst:.1e} at most"


def a_cut_while_files_are_dealt_out_anew_ends_well():
    random.seed(8)
    halves = 0
    with folder() as work:
        source(work)
        command = named(GPTQ, "out")
        ranks(4, named(GPTQ, "uncut"), work)
        for number in (2, 3, 1, 2, 4) * (4 if LONG else 1):
            while not deals(work, "out"):  # all blocks are done, to be written by whoever comes
                remove(work / "out")
                cut_when(command, 4, work, lambda: journalled(work, "out")[BLOCK] == BLOCKS)
            before = deals(work, "out")
            cut_when(command, number, work, lambda: deals(work, "out") != before,
                     random.uniform(0, 0.02))
            halves += len(deals(work, "out")) == 2
        if left(work, "out"):
            ranks(2, command, work)
        assert not left(work, "out"), left(work, "out")
        assert read(work / "out") == read(work / "uncut"), "other bytes"
        assert layers(work, "out")[0] == layers(work, "uncut")[0]
    return f"{halves} cuts left old files and new ones"


def one_that_fails_ends_all_with_its_sentence():
    with folder() as work:
        source(work)
        said = ranks(4, [*named(GPTQ, "few"), "--samples", "3"], work, well=False)
        assert "4 processes cannot share 3 samples" in said, said[-2000:]
        # One of them may not write files as long as its hidden states are.
        line, environment = launched(1, named(GPTQ, "out"))
        first = line.index(PARE)
        small = ["sh", "-c", 'trap "" XFSZ; ulimit -f 40; exec "$@"', "-", *line[first:]]
        began = time.monotonic()
        done = subprocess.run([*line, ":", "-n", "1", *small, ":", "-n", "2", *line[first:]],
                              cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode != 0 and time.monotonic() - began < 20
        assert re.search(r"rank 1 \(.*rank\.1.*too large", done.stderr), done.stderr[-3000:]
        assert "kept in out.walk, the same command continues" in done.stderr, done.stderr[-3000:]
        ranks(4, named(GPTQ, "out"), work)
        ranks(4, named(GPTQ, "same"), work)
        assert tree(work / "out") == tree(work / "same")


def who_was_told_otherwise_is_named():
    with folder() as work:
        source(work)
        line, environment = launched(1, named(GPTQ, "out"))
        other = [*line[line.index(PARE):], "--threads", "2"]
        done = subprocess.run([*line, ":", "-n", "1", *other], cwd=work, env=environment,
                              capture_output=True, text=True)
        assert done.returncode != 0
        assert re.search(r"rank 1 \(.*differs from rank 0", done.stderr), done.stderr[-3000:]
        assert not left(work, "out"), left(work, "out")


if CUDA:
    main([several_do_what_one_does])
main([several_do_what_one_does, a_recipe_of_several_steps_is_shared,
      work_that_cannot_be_shared_is_the_first_ones, killed_walks_end_with_the_same_bytes,
      another_number_of_processes_goes_on, a_cut_while_files_are_dealt_out_anew_ends_well,
      one_that_fails_ends_all_with_its_sentence, who_was_told_otherwise_is_named])

"""What a distillation step of a decoder with a large vocabulary keeps in memory, beside PyTorch:
the largest resident memory of the whole process, its libraries too, as CSV on stdout. Both make
logits from 32 features a token; pare's models have a layer of attention before them.

    kl_memory.py --pare build/release/pare --torch PYTHON [--vocabulary 32000] [--tokens 1024 …]
"""
import argparse
import datetime
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "e2e"))

TORCH = """
import sys, torch
V, R, D = int(sys.argv[1]), int(sys.argv[2]), 32
torch.set_num_threads(2)
def head(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Embedding(V, D), torch.nn.Linear(D, V, bias=False))
teacher, student = head(0), head(1)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
ids = torch.randint(V, (R,))
for _ in range(2):
    optimizer.zero_grad()
    with torch.no_grad():
        p = torch.log_softmax(teacher(ids), -1)
    q = torch.log_softmax(student(ids), -1)
    torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True).backward()
    del p, q
    optimizer.step()
print(torch.__version__)
"""


def watched(*command):
    """(what it printed, its largest resident memory in MiB)"""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(list(map(str, command)), stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{command[0]}: exit {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        return out.read().decode(), usage.ru_maxrss / 1024


def ours(program, work, vocabulary, count):
    import numpy as np
    from models import LLAMA, llama_tensors
    from support import tensor, write_directory
    model = work / f"{vocabulary}"
    if not model.exists():
        config = {**LLAMA, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": vocabulary}
        rng = np.random.default_rng(0)
        write_directory(model, {
            name: tensor("F32", 0.1 * rng.standard_normal(t.shape).astype(np.float32))
            for name, t in llama_tensors(config=config).items()}, config)
        rng.integers(0, vocabulary, 65537).astype(np.uint16).tofile(work / "text.u16")
    _, peak = watched(program, "distill", "--teacher", model, "--student", "1x32", "--data",
                      work / "text.u16", "--loss", "kl", "--seq-len", 64, "--batch", count // 64,
                      "--steps", 2, "--lr", 1e-3, "-o", work / f"{count}.h5", "--quiet")
    return "pare", peak


def theirs(python, vocabulary, count):
    version, peak = watched(python, "-c", TORCH, vocabulary, count)
    return f"torch {version.strip()}", peak


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pare", required=True)
    p.add_argument("--torch", required=True)
    p.add_argument("--vocabulary", type=int, default=32000)
    p.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 8192])
    a = p.parse_args()
    print("vocabulary,tokens,logits_MiB,program,peak_MiB,date")
    with tempfile.TemporaryDirectory() as folder:
        for count in a.tokens:
            for program, peak in (ours(a.pare, pathlib.Path(folder), a.vocabulary, count),
                                  theirs(a.torch, a.vocabulary, count)):
                print(f"{a.vocabulary},{count},{count * a.vocabulary * 4 / 2**20:.0f},{program},"
                      f"{peak:.0f},{datetime.date.today()}", flush=True)


main()

"""pare train: learns, repeats and resumes with the same bytes, keeps masks, says what is wrong."""
# labels: quick
import os
import random
import signal
import subprocess
import time

import numpy as np

from support import PARE, folder, main, pare, pare_json, read, tensor, tree, write_directory
from models import LLAMA, llama_tensors


def images(work, name="train", count=600, seed=0, size=12):
    """Four kinds of blobs with noise, as IDX files: images and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    x = rng.integers(0, 90, (count, size, size))
    half = size // 2
    for i, label in enumerate(labels):
        y0, x0 = label // 2 * half, label % 2 * half
        x[i, y0:y0 + half, x0:x0 + half] += 100
    for kind, array in (("images-idx3", x), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (work / f"{name}-{kind}-ubyte").write_bytes(head + array.astype(np.uint8).tobytes())
    return work / f"{name}-images-idx3-ubyte"


CNN = "cnn:8-p-16,classes=4,size=12,in=1"
RECIPE = ("--epochs", 6, "--batch", 32, "--lr", 0.05, "--crop", 1, "--seed", 3)


def a_small_network_learns_and_is_written_in_every_container():
    with folder() as work:
        train, test = images(work), images(work, "test", 200, 1)
        for out in ("net.h5", "net.safetensors", "net"):
            r = pare_json("train", CNN, "--data", train, "--eval-data", test, *RECIPE, "-o",
                          work / out)
            assert r["eval"]["top1"] > 0.95, r["eval"]
            assert r["losses"][-1]["loss"] < 0.5 * r["losses"][0]["loss"]
            predicted, actual = r["predicted"]["peak_memory"], r["actual"]["peak_memory"]
            assert abs(predicted - actual) <= 0.1 * actual, (predicted, actual)
            arch = ("--arch", CNN) if out.endswith(".safetensors") else ()
            again = pare_json("eval", work / out, *arch, "--data", test)
            assert again["top1"] == r["eval"]["top1"], out
        assert pare("compare", work / "net.h5", work / "net", "--tolerance", 0)
        assert not list(work.glob("*.train.h5")) and not list(work.glob("*.part"))


def two_runs_give_the_same_bytes():
    with folder() as work:
        train = images(work)
        for options in ((), ("--mixup", 0.2, "--ema", 0.9, "--label-smoothing", 0.1),
                        ("--optimizer", "adamw", "--lr", 0.01, "--accumulate", 2, "--clip", 1),
                        ("--precision", "bf16",)):
            outs = [work / f"{i}.h5" for i in range(2)]
            for out in outs:
                pare("train", CNN, "--data", train, *RECIPE, *options, "-o", out, "--overwrite")
            assert tree(outs[0]) == tree(outs[1]), options


def killed_trainings_end_with_the_same_bytes():
    random.seed(1)
    with folder() as work:
        train = images(work)
        command = ["train", CNN, "--data", train, *RECIPE, "--ema", "0.9", "--save-every", "3",
                   "--optimizer", "adamw", "--lr", "0.01"]
        began = time.monotonic()
        pare(*command, "-o", work / "uncut.h5")
        lasts = time.monotonic() - began
        kills, state = 0, work / "cut.h5.train.h5"

        def stamp():
            try:
                return state.stat().st_mtime_ns
            except FileNotFoundError:  # not yet, or just becoming the one before
                return None

        for _ in range(8):  # each some steps behind a state of its own
            before = stamp()
            process = subprocess.Popen([PARE, *map(str, command), "-o", work / "cut.h5"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and stamp() in (None, before):
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.1) * lasts)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            if (work / "cut.h5").exists() and not state.exists():
                break  # done, or killed when all was done
        else:
            pare(*command, "-o", work / "cut.h5")
        assert kills, "no kill hit"
        assert tree(work / "uncut.h5") == tree(work / "cut.h5")
        return f"{kills} kills"


def only_the_same_training_continues():
    with folder() as work:
        train = images(work)
        pare("train", CNN, "--data", train, *RECIPE, "-o", work / "a.h5")
        pare("train", CNN, "--data", train, *RECIPE, "--seed", 8, "-o", work / "b.h5")
        out = ("-o", work / "out.h5", "--save-every", 1)
        command = [PARE, "train", work / "a.h5", "--data", train, *RECIPE, *out]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        while process.poll() is None and not (work / "out.h5.train.h5").exists():
            time.sleep(0.005)
        assert process.poll() is None, "too fast to be cut"
        said = pare("train", work / "a.h5", "--data", train, *RECIPE, *out, code=2).stderr
        assert "another process" in said, said
        process.send_signal(signal.SIGKILL)
        process.wait()
        said = pare("train", work / "b.h5", "--data", train, *RECIPE, *out, code=2).stderr
        assert "model" in said, said
        pare("train", work / "b.h5", "--data", train, *RECIPE, *out, "--overwrite")
        pare("train", work / "b.h5", "--data", train, *RECIPE, "-o", work / "c.h5", "--save-every",
             1)
        assert tree(work / "out.h5") == tree(work / "c.h5")
        assert b'"sources":{"bn1.bias"' in (work / "c.h5").read_bytes()
        pare("train", work / "c.h5", "--data", train, *RECIPE, "-o", work / "c.h5", "--overwrite",
             code=2)


def zeros_of_rounding_are_no_masks():
    with folder() as work:
        train = images(work)
        pare("train", CNN, "--data", train, *RECIPE, "-o", work / "a.h5")
        pare("quantize", work / "a.h5", "-o", work / "w3.h5", "--scheme", "w3")
        r = pare_json("train", work / "w3.h5", "--data", train, *RECIPE, "-o", work / "b.h5")
        assert "masks" not in r
        pare("prune", work / "a.h5", "-o", work / "p.h5", "--sparsity", 0.5)
        pare("quantize", work / "p.h5", "-o", work / "p3.h5", "--scheme", "w3")
        r = pare_json("train", work / "p3.h5", "--data", train, *RECIPE, "-o", work / "c.h5")
        assert r["masks"]["sparsity"] >= 0.5


def an_interrupted_training_says_how_to_go_on():
    with folder() as work:
        train = images(work, count=4000)
        command = ["train", CNN, "--data", train, *RECIPE]
        process = subprocess.Popen([PARE, *map(str, command), "-o", work / "x.h5"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
        assert process.returncode in (0, 5), (process.returncode, said)
        if process.returncode == 5:
            assert "continues" in said and (work / "x.h5.train.h5").exists(), said
            pare(*command, "--threads", 1 if os.cpu_count() > 1 else 2, "-o", work / "x.h5", code=2)
            pare(*command, "-o", work / "x.h5")
        pare(*command, "-o", work / "y.h5")
        assert tree(work / "x.h5") == tree(work / "y.h5")


def pruned_weights_stay_exactly_zero():
    with folder() as work:
        train = images(work)
        pare("train", CNN, "--data", train, *RECIPE, "-o", work / "dense.h5")
        pare("prune", work / "dense.h5", "-o", work / "pruned.h5", "--sparsity", 0.7)
        for options in ((), ("--optimizer", "adamw", "--lr", 0.01, "--ema", 0.9)):
            r = pare_json("train", work / "pruned.h5", "--data", train, *RECIPE, *options, "-o",
                          work / "tuned.safetensors", "--overwrite")
            assert r["masks"]["tensors"] > 0 and abs(r["masks"]["sparsity"] - 0.7) < 0.02
            pare("convert", work / "pruned.h5", "-o", work / "before.safetensors", "--to", "dense",
                 "--overwrite")
            before, after = read(work / "before.safetensors"), read(work / "tuned.safetensors")
            pare("train", work / "pruned.h5", "--data", train, *RECIPE, *options, "-o",
                 work / "tuned.h5", "--overwrite")
            pare("compare", work / "tuned.h5", work / "tuned.safetensors", "--tolerance", 0)
            tensors = pare_json("inspect", work / "tuned.h5")["tensors"]
            forms = {t["name"]: t["form"] for t in tensors}
            assert forms["conv2.weight"] == "sparse" and forms["bn1.weight"] == "dense"
            moved = 0
            for name, array in before.items():
                if array.f32().ndim >= 2:
                    zero = array.f32() == 0
                    assert (after[name].f32()[zero] == 0).all(), name
                    assert not np.signbit(after[name].f32()[zero]).any(), name
                    moved += (after[name].f32() != array.f32())[~zero].sum()
            assert moved > 0
        pare("train", work / "pruned.h5", "--data", train, *RECIPE, "--no-masks", "-o",
             work / "grown.safetensors")
        grown = read(work / "grown.safetensors")
        assert any((grown[n].f32()[a.f32() == 0] != 0).any() for n, a in before.items()
                   if a.f32().ndim >= 2)


def frozen_parameters_do_not_move():
    with folder() as work:
        train = images(work)
        pare("train", CNN, "--data", train, *RECIPE, "-o", work / "a.safetensors")
        pare("train", work / "a.safetensors", "--arch", CNN, "--data", train, *RECIPE, "--freeze",
             "conv1*", "-o", work / "b.safetensors")
        a, b = read(work / "a.safetensors"), read(work / "b.safetensors")
        assert a["conv1.weight"] == b["conv1.weight"] and a["conv2.weight"] != b["conv2.weight"]


def a_decoder_learns_tokens_in_its_own_dtype():
    rng = np.random.default_rng(5)
    with folder() as work:
        tokens = np.tile(rng.integers(0, 96, 40), 100).astype(np.uint16)
        tokens.tofile(work / "text.u16")
        small = {n: tensor("BF16", a.f32() * (0.3 if a.f32().ndim > 1 else 1) +
                           (1 if "norm" in n else 0)) for n, a in llama_tensors().items()}
        write_directory(work / "model", small, LLAMA)
        data = ("--data", work / "text.u16", "--seq-len", 32)
        before = pare_json("eval", work / "model", *data)
        r = pare_json("train", work / "model", *data, "--epochs", 3, "--batch", 8, "--lr", 0.003,
                      "--warmup", 5, "-o", work / "tuned")
        after = pare_json("eval", work / "tuned", *data)
        assert after["ppl"] < 0.5 * before["ppl"], (before["ppl"], after["ppl"])
        assert all(array.dtype == "BF16" for array in read(work / "tuned").values())
        assert r["steps"] == round(3 * 124 / 8) or r["steps"] > 0


def a_plan_for_several_gpus_is_that_of_a_ring():
    """2·(N − 1)/N of the gradients' bytes over the slowest link, in buckets of 25 MiB, all but the
    last of them behind what backward has left to do."""
    with folder() as work:
        train = images(work, size=28)
        for arch, batch in (("mlp:784-4096-4096-4", 32), ("mlp:784-4096-4096-4", 4096),
                            ("mlp:784-16-4", 32)):
            s = pare_json("train", f"{arch},in=1,size=28", "--data", train, "--batch", batch,
                          "--steps", 1, "--plan", "-o", work / "out.h5")["scaling"]
            widths = [int(n) for n in arch[4:].split("-")]
            weights = [a * b for a, b in zip(widths, widths[1:])]
            gradients = s["gradient_bytes"]
            assert abs(gradients / 4 - sum(weights) - sum(widths[1:])) < 64, gradients
            step, buckets = s["step_seconds"], max(1, gradients / (25 << 20))
            assert abs(step * 30e12 / (6 * batch * sum(weights)) - 1) < 0.01, step
            assert [r["ranks"] for r in s["ranks"]] == [2, 8, 64]
            for r in s["ranks"]:
                n = r["ranks"]
                moved = 2 * (n - 1) / n * gradients
                link, wait = (45e9, 20e-6) if n > 8 else (360e9, 8e-6)
                seconds = moved / link + buckets * 2 * (n - 1) * wait
                behind = min(seconds, step * 2 / 3) * (buckets - 1) / buckets
                for name, want in (("bytes", moved), ("seconds", seconds),
                                   ("exposed_seconds", seconds - behind),
                                   ("efficiency", step / (step + seconds - behind))):
                    assert abs(r[name] / want - 1) < 1e-6, (arch, batch, n, name, r[name], want)
        assert not list(work.glob("out.h5*"))


def bad_input_gets_one_sentence():
    with folder() as work:
        train = images(work)

        def refuse(code, words, *arguments):
            said = pare(*arguments, code=code).stderr
            assert words in said and said.count("\n") == 1, said

        out = ("-o", work / "out.h5")
        refuse(2, "known", "train", "nosuchnet", "--data", train, *RECIPE, *out)
        refuse(3, "nothere", "train", CNN, "--data", work / "nothere", *RECIPE, *out)
        refuse(2, "12", "train", "cnn:8-p-16,classes=4,size=28,in=1", "--data", train, *RECIPE,
               *out)
        refuse(3, "label", "train", "cnn:8-p-16,classes=3,size=12,in=1", "--data", train, *RECIPE,
               *out)
        refuse(4, "needs", "train", CNN, "--data", train, *RECIPE, "--memory", "1M", *out)
        bare = work / "bare.idx"
        bare.write_bytes(train.read_bytes())
        for plan in ((), ("--plan",)):
            refuse(2, "labels", "train", CNN, "--data", train, "--eval-data", bare, *RECIPE, *plan,
                   *out)
        refuse(1, "NaN", "train", CNN, "--data", train, *RECIPE, "--lr", "1e30", *out)
        (work / "empty-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + bytes(12))
        refuse(3, "empty", "train", CNN, "--data", work / "empty-images-idx3-ubyte", *RECIPE, *out)
        np.full(4096, 96, np.uint16).tofile(work / "outside.u16")
        write_directory(work / "model", llama_tensors(), LLAMA)
        refuse(3, "position 0", "eval", work / "model", "--data", work / "outside.u16", "--seq-len",
               32)
        broken = dict(llama_tensors())
        first, second = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
        broken[first] = tensor("F32", broken[first].f32()[:-1])
        del broken[second]
        broken["model.layers.0.extra.weight"] = tensor("F32", np.ones((2, 2), np.float32))
        write_directory(work / "broken", broken, LLAMA)
        np.zeros(4096, np.uint16).tofile(work / "inside.u16")
        said = pare("eval", work / "broken", "--data", work / "inside.u16", "--seq-len", 32,
                    code=3).stderr
        for name in (first, second, "model.layers.0.extra.weight"):
            assert name in said, said
        assert not list(work.glob("out.h5*")), list(work.glob("out.h5*"))


if __name__ == "__main__":
    main([a_small_network_learns_and_is_written_in_every_container, two_runs_give_the_same_bytes,
          killed_trainings_end_with_the_same_bytes, only_the_same_training_continues,
          zeros_of_rounding_are_no_masks, an_interrupted_training_says_how_to_go_on,
          pruned_weights_stay_exactly_zero, frozen_parameters_do_not_move,
          a_decoder_learns_tokens_in_its_own_dtype, a_plan_for_several_gpus_is_that_of_a_ring,
          bad_input_gets_one_sentence])

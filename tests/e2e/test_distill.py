"""pare distill and retraining: students learn from teachers, masks, steps and factors stay what
they should be, repeats and resumes with the same bytes, what does not fit is said."""
# labels: quick
import random
import re
import signal
import subprocess
import time

import numpy as np

from support import (PARE, folder, main, pare, pare_json, read, tensor, tree, watched,
                     write_directory)
from models import LLAMA, llama_tensors
from test_train import CNN, images

SMALL = {**LLAMA, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}


def smooth(path, config=SMALL):
    """A decoder of plain random weights (llama_tensors' own are awkward on purpose)."""
    rng = np.random.default_rng(5)
    tensors = {name: tensor("F32", rng.standard_normal(t.shape).astype(np.float32) *
                            np.float32(0.3) if len(t.shape) > 1 else np.ones(t.shape, np.float32))
               for name, t in llama_tensors(config=config).items()}
    write_directory(path, tensors, config)
    return path


def tokens(path, count=2049):
    np.random.default_rng(3).integers(0, 64, count).astype(np.uint16).tofile(path)
    return path


DECODER = ("--seq-len", 16, "--batch", 16, "--lr", 3e-3, "--seed", 1)


def a_student_comes_closer_to_its_teacher():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        common = ("--teacher", teacher, "--student", "2x32", "--data", data, *DECODER)
        kld = {}
        for steps in (1, 80):
            pare("distill", *common, "--loss", "kl", "--steps", steps, "-o", work / f"{steps}.h5")
            kld[steps] = pare_json("eval", work / f"{steps}.h5", "--against", teacher, "--data",
                                   data, "--seq-len", 16, "--metric", "kld")["kld"]
        assert kld[80] < 0.6 * kld[1], kld
        return str(kld)


def a_vocabulary_of_logits_never_stands_in_memory():
    """From 1024 to 4096 tokens of 16,000 words a step needs more activations; the logits of one
    model alone, or their probabilities, would be another 187 MiB."""
    large = {**SMALL, "vocab_size": 16000, "num_hidden_layers": 2}
    with folder() as work:
        teacher, data = smooth(work / "teacher", large), tokens(work / "t.u16", 8193)
        peak = {}
        for batch in (16, 64):
            peak[batch] = watched("distill", "--teacher", teacher, "--student", "1x32", "--data",
                                  data, "--loss", "kl", "--seq-len", 64, "--batch", batch,
                                  "--steps", 2, "--lr", 1e-3, "-o", work / f"{batch}.h5")
        grown, logits = peak[64] - peak[16], (4096 - 1024) * 16000 * 4
        assert grown < 0.15 * logits, (peak, grown, logits)
        return f"{grown >> 20} of {logits >> 20} MiB"


def every_loss_and_init_of_a_decoder_learns():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        for i, (shape, more) in enumerate((
                ("2x32", ("--loss", "kl:1,ce:0.5", "--temperature", "4>1", "--init", "every-k")),
                ("2x16", ("--loss", "kl:1,hidden:1", "--init", "subclone")),
                ("2x16,heads=2,ffn=32", ("--loss", "kl:1,hidden:1", "--hidden", "cosine",
                                         "--layers", "last", "--init", "random")),
                ("2x32", ("--loss", "kl:1,attention:0.1", "--layers", "skip")),
                ("2x32", ("--loss", "attention:1", "--attention", "probabilities")),
                ("2x16", ("--loss", "relation:1", "--relation-heads", 4)),
                ("2x32", ("--loss", "kl:1>0.5", "--divergence", "js")),
                ("2x32", ("--loss", "kl:1", "--divergence", "reverse", "--precision", "bf16",
                          "--teacher-precision", "bf16")))):
            r = pare_json("distill", "--teacher", teacher, "--student", shape, "--data", data,
                          *DECODER, *more, "--steps", 40, "-o", work / f"{i}")
            first, last = r["losses"][0]["loss"], r["losses"][-1]["loss"]
            assert last < first, (shape, more, first, last)
            predicted, actual = r["predicted"]["peak_memory"], r["actual"]["peak_memory"]
            assert abs(predicted - actual) <= max(0.1 * actual, 1 << 20), (more, predicted, actual)
            layers, width = shape.split(",")[0].split("x")
            assert f'"hidden_size": {width}' in (work / f"{i}/config.json").read_text()


def cut_from(teacher, shape, init, work):
    """The values that a student begins with: after a step that moves nothing."""
    pare("distill", "--teacher", teacher, "--student", shape, "--init", init, "--data",
         tokens(work / "t.u16"), *DECODER, "--lr", 1e-30, "--steps", 1, "-o", work / init)
    return {name: t.f32() for name, t in read(work / init).items()}


def layer_of(name):
    """The teacher's name of a tensor: of four layers the second and the last stay."""
    return re.sub(r"layers\.(\d)", lambda m: f"layers.{2 * int(m[1]) + 1}", name)


def students_begin_with_what_their_teacher_has():
    """Every k-th layer as it is; of a subclone the features and neurons of largest weights, and
    each product times √(inputs before/inputs left)."""
    with folder() as work:
        source = smooth(work / "teacher")
        teacher = {name: t.f32() for name, t in read(source).items()}
        whole = cut_from(source, "2x32", "every-k", work)
        for name, w in whole.items():
            name = layer_of(name)
            assert (w == teacher[name]).all(), name

        small = cut_from(source, "2x16,heads=4,ffn=16", "subclone", work)
        squares = {name: w.astype(np.float64) ** 2 for name, w in teacher.items()}
        writes = ("o_proj.weight", "down_proj.weight")
        worth = sum(s if s.ndim == 1 else s.sum(1 if name.endswith(writes) else 0)
                    for name, s in squares.items())
        kept = np.sort(np.argsort(-worth)[:16])
        for name, w in small.items():
            name = layer_of(name)
            want, gain = teacher[name], 1
            layer = name.rsplit(".", 3)[0]
            if "mlp" in name:
                neurons = sum(squares[f"{layer}.mlp.{which}_proj.weight"].sum(axis)
                              for which, axis in (("gate", 1), ("up", 1), ("down", 0)))
                neurons = np.sort(np.argsort(-neurons)[:16])
                want = want[:, neurons] if "down" in name else want[neurons]
            if want.ndim == 1:
                want = want[kept]
            elif name.endswith(writes):
                want, gain = want[kept], 2 if "down" in name else 1
            else:
                want, gain = want[:, kept], 1 if "embed" in name else 2 ** 0.5
            assert w.shape == want.shape and np.allclose(w, want * gain, 1e-6, 0), name


def networks_learn_from_labels_and_from_a_teacher():
    with folder() as work:
        train, test = images(work), images(work, "test", 200, 1)
        pare("train", CNN, "--data", train, "--epochs", 6, "--batch", 32, "--lr", 0.05, "-o",
             work / "teacher.h5")
        r = pare_json("distill", "--teacher", work / "teacher.h5", "--student",
                      "cnn:4-p-8,classes=4,size=12,in=1", "--data", train, "--eval-data", test,
                      "--loss", "kl:0.7,ce:0.3", "--temperature", 4, "--mixup", 0.2, "--crop", 1,
                      "--epochs", 8, "--batch", 32, "--lr", 0.05, "-o", work / "student.h5")
        assert r["eval"]["top1"] > 0.95, r["eval"]
        assert len(r["terms"]) == 2 and all(t["mean"] > 0 for t in r["terms"]), r["terms"]
        labels = pare_json("distill", "--teacher", work / "teacher.h5", "--student",
                           "cnn:4-p-8,classes=4,size=12,in=1", "--data", train, "--loss", "ce",
                           "--epochs", 8, "--batch", 32, "--lr", 0.05, "-o", work / "labels.h5",
                           "--plan")
        assert labels["predicted"]["flops"] < 0.9 * r["predicted"]["flops"], "the teacher is asked"
        bare = work / "bare-images-idx3-ubyte"
        bare.write_bytes(train.read_bytes())
        pare("distill", "--teacher", work / "teacher.h5", "--student",
             "cnn:4-p-8,classes=4,size=12,in=1", "--data", bare, "--loss", "kl", "--steps", 5, "-o",
             work / "unlabelled.h5")


def both_get_the_same_pixels():
    with folder() as work:
        train, test = images(work), images(work, "test", 200, 1)
        shape = "cnn:4-p-8,classes=4,size=12,in=1"
        learn = ("--data", train, "--batch", 32, "--lr", 0.05)
        pare("train", CNN, *learn, "--epochs", 6, "--scale", 0.01, "--mean", 0.6, "--std", 0.3,
             "-o", work / "teacher.h5")
        common = ("distill", "--teacher", work / "teacher.h5", *learn, "--loss", "kl")
        r = pare_json(*common, "--student", shape, "--epochs", 8, "--eval-data", test, "-o",
                      work / "student.h5")
        assert r["eval"]["top1"] > 0.95, r["eval"]
        again = pare_json("eval", work / "student.h5", "--data", test, "--metric", "top1")
        assert again["top1"] == r["eval"]["top1"], again
        pare("train", shape, *learn, "--steps", 2, "-o", work / "other.h5")
        other = (*common, "--student", work / "other.h5", "--steps", 2, "-o", work / "out.h5")
        said = pare(*other, code=2).stderr
        options = re.search(r"--scale \S+ --mean \S+ --std \S+", said)
        assert "scaled otherwise" in said and options and not list(work.glob("out*")), said
        pare(*other, *options[0].split())


def a_cache_gives_what_it_was_made_of():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        common = ("distill", "--teacher", teacher, "--student", "2x32", "--data", data, *DECODER,
                  "--loss", "kl", "--steps", 20)
        live = pare_json(*common, "-o", work / "live.h5")
        whole = pare_json(*common, "--cache", work / "all.h5", "--cache-k", 64, "-o",
                          work / "whole.h5")
        assert whole["cache"]["bytes_per_unit"] > 0 and whole["cache"]["mass"] > 0.999
        a, b = live["losses"][-1]["loss"], whole["losses"][-1]["loss"]
        assert abs(a - b) < 0.02 * a, (a, b)
        few = pare_json(*common, "--cache", work / "few.h5", "--cache-k", 8, "-o",
                        work / "few.out.h5")
        assert few["cache"]["mass"] < whole["cache"]["mass"] and few["cache"]["kl_kept"] > 0
        before = (work / "few.h5").read_bytes()
        pare_json(*common, "--cache", work / "few.h5", "--cache-k", 8, "-o", work / "again.h5")
        assert before == (work / "few.h5").read_bytes()
        assert tree(work / "few.out.h5") == tree(work / "again.h5")
        other = tokens(work / "other.u16", 3000)
        said = pare("distill", "--teacher", teacher, "--student", "2x32", "--data", other, *DECODER,
                    "--loss", "kl", "--steps", 20, "--cache", work / "few.h5", "--cache-k", 8, "-o",
                    work / "no.h5", code=2)
        assert not (work / "no.h5").exists()


def a_quantised_teacher_teaches_its_values_and_takes_half_in_bf16():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        common = ("--data", data, *DECODER, "--loss", "kl:1,hidden:1")
        pare("distill", "--teacher", teacher, "--student", "2x32", *common, "--steps", 1, "-o",
             work / "student.h5")
        pare("quantize", teacher, "--scheme", "w4g32", "-o", work / "w4.h5")
        pare("convert", work / "w4.h5", "--to", "dense", "-o", work / "decoded.h5")
        held = {}
        for precision in ("f32", "bf16"):
            outs = []
            for kind in ("w4", "decoded"):
                out = work / f"{kind}.{precision}.h5"
                r = pare_json("distill", "--teacher", work / f"{kind}.h5", "--teacher-precision",
                              precision, "--student", work / "student.h5", *common, "--steps", 20,
                              "-o", out)
                predicted, actual = r["predicted"]["peak_memory"], r["actual"]["peak_memory"]
                assert abs(predicted - actual) <= max(0.1 * actual, 1 << 20), (predicted, actual)
                outs.append({n: t.data for n, t in read_h5(out).items()})
            assert outs[0] == outs[1], precision
            held[precision] = r["predicted"]["parameters_bytes"]
        values = sum(t.f32().size for t in read(teacher).values())
        saved = (held["f32"] - held["bf16"]) / (4 * values)
        assert 0.45 < saved <= 0.5, saved
        return f"{100 * saved:.1f} % less for the teacher's values"


def killed_distillations_end_with_the_same_bytes():
    random.seed(2)
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        for name, more in (("plain", ("--student", "2x16", "--loss", "kl:1,hidden:1>0.1")),
                           ("masks", ("--student", teacher, "--masks", "gradual", "--sparsity", 0.8,
                                      "--each", 2)),
                           ("rigl", ("--student", teacher, "--masks", "rigl", "--sparsity", 0.8,
                                     "--each", 3)),
                           ("qat", ("--student", teacher, "--qat", "w4")),
                           ("lora", ("--student", teacher, "--lora", 4))):
            command = ["distill", "--teacher", teacher, "--data", data, *DECODER, *more, "--steps",
                       60, "--save-every", 4]
            began = time.monotonic()
            pare(*command, "-o", work / f"{name}.h5")
            lasts = time.monotonic() - began
            for _ in range(30):
                cut = work / f"{name}.cut.h5"
                process = subprocess.Popen([PARE, *map(str, command), "-o", cut],
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    process.wait(random.uniform(0.2, 0.9) * lasts)
                    break
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            assert cut.exists(), name
            assert tree(work / f"{name}.h5") == tree(cut), name
            assert not list(work.glob("*.student.h5")) and not list(work.glob("*.train.h5")), name


def a_damaged_state_costs_the_steps_since_the_one_before():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        command = ("distill", "--teacher", teacher, "--student", "2x32", "--data", data, *DECODER,
                   "--loss", "kl", "--save-every", 10)
        pare(*command, "--steps", 400, "-o", work / "uncut.h5")
        state, before = work / "cut.h5.train.h5", work / "cut.h5.train.before.h5"
        process = subprocess.Popen([PARE, *map(str, command), "--steps", "400", "-o",
                                    work / "cut.h5"], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        while process.poll() is None and not (before.exists() and state.exists()):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (before.exists() and state.exists()):
            return "too fast to be cut"
        blob = bytearray(state.read_bytes())
        blob[len(blob) // 2] ^= 0x55
        state.write_bytes(bytes(blob[:-100]))
        said = pare(*command, "--steps", 400, "-o", work / "cut.h5").stderr
        assert "going on with the state before it" in said, said
        assert tree(work / "uncut.h5") == tree(work / "cut.h5")
        assert not state.exists() and not before.exists()


def cut(work, out, *command):
    """Begins a training that lasts, and stops it once it has a state."""
    process = subprocess.Popen([PARE, *map(str, command), "--steps", "100000", "--save-every", "2",
                                "-o", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (work / f"{out.name}.train.h5").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 5 and (work / f"{out.name}.train.h5").exists()


def another_training_over_one_that_was_cut_is_as_alone():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        common = ("distill", "--teacher", teacher, "--data", data, *DECODER)
        for first, then in ((("--student", "2x16"), ("--student", "3x32")),
                            (("--student", teacher, "--masks", "rigl", "--sparsity", 0.5),
                             ("--student", teacher, "--masks", "rigl", "--sparsity", 0.8)),
                            (("--student", teacher, "--masks", "gradual", "--sparsity", 0.5),
                             ("--student", teacher, "--masks", "gradual", "--sparsity", 0.8)),
                            (("--student", teacher, "--qat", "w4"),
                             ("--student", teacher, "--qat", "w8")),
                            (("--student", teacher, "--lora", 2),
                             ("--student", teacher, "--lora", 4, "--lora-alpha", 3))):
            pare(*common, *then, "--steps", 20, "-o", work / "alone.h5", "--overwrite")
            cut(work, work / "over.h5", *common, *first)
            said = pare(*common, *then, "--steps", 20, "-o", work / "over.h5", code=2).stderr
            assert "another training" in said, said
            pare(*common, *then, "--steps", 20, "-o", work / "over.h5", "--overwrite")
            assert tree(work / "alone.h5") == tree(work / "over.h5"), then
            (work / "over.h5").unlink()


def what_is_not_ours_stays():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        common = ("distill", "--teacher", teacher, "--data", data, *DECODER, "--steps", 5)
        pare(*common, "--student", "2x32", "-o", work / "a.h5")
        (work / "a.h5").rename(work / "b.student.h5")
        before = (work / "b.student.h5").read_bytes()
        for more in (("--student", "9x32", "--plan"), ("--student", "2x32")):
            pare(*common, *more, "-o", work / "b", code=2)
            assert (work / "b.student.h5").read_bytes() == before, more
        for out in (work / "teacher", work / "teacher/model.safetensors"):
            said = pare(*common, "--student", "2x32", "-o", out, "--overwrite", code=2).stderr
            assert "would lose it" in said, said
        (work / "adapter").mkdir()
        said = pare(*common, "--student", teacher, "--lora", 2, "--adapter", work / "adapter", "-o",
                    work / "c", code=2).stderr
        assert "adapter exists" in said and not list(work.glob("c*")), said
        (work / "recipe.yaml").write_text("""
model: teacher
steps:
  - train:    { data: t.u16, seq_len: 16, steps: 2, lora: 2, adapter: adapter }
  - quantize: { scheme: w8 }
""")
        said = pare("run", "recipe.yaml", "-o", "d.h5", cwd=work, code=2).stderr
        assert "adapter exists" in said and (work / "adapter").is_dir(), said
        (work / "adapter").rmdir()
        pare("run", "recipe.yaml", "-o", "d.h5", cwd=work)
        assert (work / "adapter/adapter_config.json").exists()


def pruned_while_trained_then_rounded_is_still_pruned():
    with folder() as work:
        train = images(work)
        common = ("--data", train, "--batch", 32, "--lr", 0.01)
        pare("train", CNN, *common, "--steps", 20, "--masks", "gradual", "--sparsity", 0.75, "-o",
             work / "sparse.h5")
        pare("quantize", work / "sparse.h5", "--scheme", "w4", "-o", work / "w4.h5")
        r = pare_json("train", work / "w4.h5", *common, "--steps", 5, "--lora", 2, "-o",
                      work / "again.h5")
        assert r["masks"]["sparsity"] > 0.74, r.get("masks")


def a_student_that_is_its_teacher_is_told_so():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        said = pare("distill", "--teacher", teacher, "--student", teacher, "--data", data, *DECODER,
                    "--loss", "kl", "--steps", 5, "-o", work / "out.h5", code=1).stderr
        assert "is 0" in said and not list(work.glob("out*")), said


def masks_reach_their_sparsity_and_stay_exact():
    with folder() as work:
        train, test = images(work), images(work, "test", 200, 1)
        pare("train", CNN, "--data", train, "--epochs", 6, "--batch", 32, "--lr", 0.05, "-o",
             work / "whole.h5")
        for schedule in ("gradual", "iterative", "rewind", "rigl", "set", "dense"):
            r = pare_json("train", work / "whole.h5", "--data", train, "--eval-data", test,
                          "--epochs", 6, "--batch", 32, "--lr", 0.03, "--masks", schedule,
                          "--sparsity", 0.75, "--each", 3, "--scope", "layer", "-o",
                          work / f"{schedule}.h5")
            weights = [t.f32() for n, t in read_h5(work / f"{schedule}.h5").items()
                       if t.f32().ndim == 4]
            zeros = sum((w == 0).sum() for w in weights) / sum(w.size for w in weights)
            wanted = 0 if schedule == "dense" else 0.75
            assert abs(zeros - wanted) < 0.01, (schedule, zeros)
            assert r["eval"]["top1"] > 0.9, (schedule, r["eval"])


def read_h5(path):
    pare("convert", path, "-o", path.with_suffix(".safetensors"), "--to", "dense", "--overwrite")
    return read(path.with_suffix(".safetensors"))


def trained_integers_are_the_exported_ones():
    with folder() as work:
        train, test = images(work), images(work, "test", 200, 1)
        pare("train", CNN, "--data", train, "--epochs", 6, "--batch", 32, "--lr", 0.05, "-o",
             work / "dense.h5")
        r = pare_json("train", work / "dense.h5", "--data", train, "--eval-data", test, "--epochs",
                      4, "--batch", 32, "--lr", 0.01, "--qat", "w4", "-o", work / "w4.h5")
        assert r["eval"]["top1"] > 0.95, r["eval"]
        again = pare_json("eval", work / "w4.h5", "--data", test)
        assert again["top1"] == r["eval"]["top1"] and again["loss"] == r["eval"]["loss"]
        report = pare_json("inspect", work / "w4.h5")
        forms = {t["name"]: t for t in report["tensors"]}
        assert sum("w4" in str(t) for t in forms.values()) >= 2, forms


def factors_are_merged_or_kept():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        pare("prune", teacher, "-o", work / "sparse", "--sparsity", 0.5)
        r = pare_json("distill", "--teacher", teacher, "--student", work / "sparse", "--data", data,
                      *DECODER, "--lora", 4, "--adapter", work / "adapter", "--steps", 30, "-o",
                      work / "merged")
        assert r["losses"][-1]["loss"] < r["losses"][0]["loss"]
        base, merged = read(work / "sparse"), read(work / "merged")
        adapter = read(work / "adapter/adapter_model.safetensors")
        name = "model.layers.0.mlp.up_proj"
        a = adapter[f"base_model.model.{name}.lora_A.weight"].f32().astype(np.float64)
        b = adapter[f"base_model.model.{name}.lora_B.weight"].f32().astype(np.float64)
        w, m = base[name + ".weight"].f32(), merged[name + ".weight"].f32()
        assert np.abs((w + 2 * b @ a) * (w != 0) - m).max() < 1e-5
        assert ((w == 0) == (m == 0)).all(), "pruned weights came back"


def one_recipe_prunes_distils_quantises_and_measures():
    with folder() as work:
        smooth(work / "teacher"), tokens(work / "t.u16")
        (work / "recipe.yaml").write_text("""
model: teacher
seed: 1
data: { calibration: t.u16, train: t.u16, eval: t.u16 }
steps:
  - prune:    { method: wanda, pattern: "2:4", samples: 32, seq_len: 16 }
  - distill:  { teacher: teacher, loss: { kl: 1, hidden: 0.1 }, temperature: 2, steps: 30,
                seq_len: 16, batch: 16, lr: 1e-3 }
  - quantize: { method: gptq, scheme: w4g32, samples: 32, seq_len: 16 }
  - eval:     { metric: [ppl, kld], against: teacher, seq_len: 16 }
  - export:   { to: out }
""")
        plan = pare_json("plan", "recipe.yaml", cwd=work)
        assert len(plan["steps"]) == 4
        r = pare_json("run", "recipe.yaml", cwd=work)
        assert [s["kind"] for s in r["steps"]][1] == "train"
        zeros = [(t.f32() == 0).mean() for n, t in decoded(work / "out", work).items()
                 if "mlp" in n or "self_attn" in n]
        assert min(zeros) >= 0.5, zeros


def decoded(path, work):
    pare("convert", path, "-o", work / "dense", "--to", "dense", "--overwrite")
    return read(work / "dense")


def what_does_not_fit_is_said_before_anything_begins():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16")
        train = images(work)
        common = ("--data", data, *DECODER, "--steps", 5, "-o", work / "out.h5")
        for words, more in (
                ("no file of images", ("--teacher", teacher, "--student", CNN)),
                ("loss.*hiden", ("--teacher", teacher, "--student", "2x32", "--loss", "hiden:1")),
                ("5 layers.*4|has 4", ("--teacher", teacher, "--student", "5x32")),
                ("40|width", ("--teacher", teacher, "--student", "2x40")),
                ("width", ("--teacher", teacher, "--student", "2x16", "--init", "every-k")),
                ("heads", ("--teacher", teacher, "--student", "2x16,heads=2", "--loss",
                           "attention:1")),
                ("cache holds", ("--teacher", teacher, "--student", "2x32", "--loss",
                                 "kl:1,hidden:1", "--cache", work / "c.h5")),
                ("one temperature", ("--teacher", teacher, "--student", "2x32", "--temperature",
                                     "4>1", "--cache", work / "c.h5")),
                ("one after the other", ("--teacher", teacher, "--student", teacher, "--qat", "w4",
                                         "--lora", 4)),
                ("sparsity", ("--teacher", teacher, "--student", teacher, "--masks", "gradual")),
                ("adapter.*lora", ("--teacher", teacher, "--student", teacher, "--adapter",
                                   work / "a")),
                ("rounds.*masks", ("--teacher", teacher, "--student", teacher, "--rounds", 2))):
            said = subprocess.run([PARE, "distill", *map(str, (*more, *common))],
                                  capture_output=True, text=True)
            code = 3 if words.startswith("no file") else 2
            assert said.returncode == code and re.search(words, said.stderr), (more, said.stderr)
            assert said.stderr.count("\n") == 1, said.stderr
            assert not list(work.glob("out*")), list(work.glob("out*"))
        said = pare("train", CNN, "--data", train, "--qat", "w8", "--steps", 5, "-o", work / "out",
                    code=2).stderr
        assert "convolutions" in said and not list(work.glob("out*")), said
        (work / "recipe.yaml").write_text("""
model: teacher
steps:
  - prune:   { sparsity: 0.5 }
  - distill: { teacher: teacher, student: 2x32, data: t.u16, seq_len: 16, steps: 5 }
""")
        said = pare("run", "recipe.yaml", "-o", "out.h5", cwd=work, code=2).stderr
        assert "would be lost" in said and not list(work.glob("out*")), said


def too_little_memory_is_answered_with_a_batch_that_fits():
    with folder() as work:
        teacher, data = smooth(work / "teacher"), tokens(work / "t.u16", 65537)
        common = ("distill", "--teacher", teacher, "--student", "2x32", "--data", data, "--seq-len",
                  64, "--steps", 2, "--lr", 1e-3, "-o", work / "out.h5")
        said = pare(*common, "--batch", 512, "--memory", "60M", code=4).stderr
        fits = re.search(r"; --batch (\d+) --accumulate (\d+) fits$", said.strip())
        assert fits and int(fits[1]) * int(fits[2]) == 512, said
        pare(*common, "--batch", 2 * int(fits[1]), "--memory", "60M", code=4)
        pare(*common, "--batch", fits[1], "--accumulate", fits[2], "--memory", "60M", "--plan")
        said = pare(*common, "--batch", 8, "--memory", "2M", code=4).stderr
        assert "a single sample at a time does not fit either" in said, said


main([a_student_comes_closer_to_its_teacher,
      a_vocabulary_of_logits_never_stands_in_memory,
      every_loss_and_init_of_a_decoder_learns,
      students_begin_with_what_their_teacher_has,
      networks_learn_from_labels_and_from_a_teacher,
      both_get_the_same_pixels,
      a_cache_gives_what_it_was_made_of,
      a_quantised_teacher_teaches_its_values_and_takes_half_in_bf16,
      killed_distillations_end_with_the_same_bytes,
      a_damaged_state_costs_the_steps_since_the_one_before,
      another_training_over_one_that_was_cut_is_as_alone,
      what_is_not_ours_stays,
      pruned_while_trained_then_rounded_is_still_pruned,
      a_student_that_is_its_teacher_is_told_so,
      masks_reach_their_sparsity_and_stay_exact,
      trained_integers_are_the_exported_ones,
      factors_are_merged_or_kept,
      one_recipe_prunes_distils_quantises_and_measures,
      what_does_not_fit_is_said_before_anything_begins,
      too_little_memory_is_answered_with_a_batch_that_fits])

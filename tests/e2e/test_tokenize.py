#!/usr/bin/env python3
"""tools/tokenize.py makes the tokens that the tokenizers themselves make: of tiny ones made here,
and, where there is test data, of real ones."""
# labels: quick
import importlib.util
import pathlib
import subprocess
import sys

import numpy as np

from support import data, folder, main, skip, tree

try:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
except ImportError:
    skip("transformers is not installed (tools/test.sh installs it)")

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "tokenize.py"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "the", "cat", "sat", "mat", "on", ".", "##s"]
TEXT = "the cat sat\n\non the mat .\n<|endoftext|>\nthe mat sat on the cat .\n<|endoftext|>\n"


def tokenize(*arguments, code=0):
    done = subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True,
                          text=True)
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stderr}"
    return done.stdout + done.stderr


def ids(words):
    return [WORDS.index(word) for word in words.split()]


def word_level():
    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return own


def streams_are_what_the_tokenizer_gives():
    """A tokenizer.json alone, and a directory with it: one stream, with and without a BOS."""
    with folder() as path:
        word_level().save(str(path / "tokenizer.json"))
        PreTrainedTokenizerFast(tokenizer_object=word_level(), bos_token="<s>", pad_token="[PAD]",
                                unk_token="[UNK]").save_pretrained(path / "model")
        (path / "text.txt").write_text(TEXT)
        first, second = ids("the cat sat on the mat ."), ids("the mat sat on the cat .")
        for tokenizer in path / "tokenizer.json", path / "model":
            out = path / "out.npy"
            tokenize(tokenizer, path / "text.txt", "-o", out, "--bos-each-document")
            got = np.load(out)
            assert got.dtype == np.uint16 and got.tolist() == [4, *first, 4, *second]
            tokenize(tokenizer, path / "text.txt", "-o", path / "out.u32", "--bos-each-line",
                     "--bos-id", 9, "--separator", "no")
            got = np.fromfile(path / "out.u32", "<u4").tolist()
            assert got[:9] == [9, *first[:3], 9, *first[3:]] and got.count(9) == 2 + 5
            (path / "plain.txt").write_text("the cat\nsat")
            tokenize(tokenizer, path / "plain.txt", path / "plain.txt", "-o", path / "out.u16")
            assert np.fromfile(path / "out.u16", "<u2").tolist() == 2 * ids("the cat sat")


def lines_become_rows_with_their_labels():
    """Lines with labels become rows; a long one is cut before its end token."""
    with folder() as path:
        (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        (path / "rows.tsv").write_text("sentence\tlabel\nThe cats sat.\t1\n\n"
                                       "the cat sat on the mat on the mat\t0\na\t7\n")
        for tokenizer in path, path / "vocab.txt":
            tokenize(tokenizer, path / "rows.tsv", "-o", path / "x.ids.u16", "--pad-to", 8)
            got = np.fromfile(path / "x.ids.u16", "<u2").reshape(3, 8).tolist()
            assert got == [ids("[CLS] the cat ##s sat . [SEP] [PAD]"),
                           ids("[CLS] the cat sat on the mat [SEP]"),
                           ids("[CLS] [UNK] [SEP]") + 5 * [0]], got
            assert (path / "x.labels.u8").read_bytes() == bytes([1, 0, 7])
        (path / "lines.txt").write_text("the cat\nthe mat\n")
        tokenize(path, path / "lines.txt", "-o", path / "y.npy", "--pad-to", 5)
        assert np.load(path / "y.npy").shape == (2, 5) and not (path / "y.labels.u8").exists()


def a_vocabulary_tells_how_it_was_split():
    """Marks within words, capitals and accents are kept where the vocabulary has such."""
    with folder() as path:
        def rows(words, text):
            (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
            (path / "one.txt").write_text(text)
            tokenize(path / "vocab.txt", path / "one.txt", "-o", path / "one.npy", "--pad-to", 5)
            return [one for one in np.load(path / "one.npy")[0].tolist() if one > 3]

        assert rows(["it", "'", "s", "cafe"], "It's café") == [4, 5, 6]  # cut at 5
        assert rows(["it", "'", "s", "cafe"], "CAFÉ s") == [7, 6]
        assert rows(["it", "'s", "cafe"], "It 's cafe") == [4, 5, 6]
        assert rows(["it", "s", "café"], "IT café s") == [4, 6, 5]
        assert rows(["It", "s", "cafe"], "It it s") == [4, 5]


def mistakes_are_said_and_write_nothing():
    """What cannot be done is said, and nothing is written."""
    with folder() as path:
        (path / "vocab.txt").write_text("\n".join(WORDS))
        (path / "text.txt").write_text("the cat\n")
        (path / "bad.tsv").write_text("the\t1\ncat\tx\n")
        (path / "some.tsv").write_text("the\t1\ncat\n")
        (path / "empty").mkdir()
        out = path / "bad.u16"
        for tokenizer, text, more, code, says in [
                ("", "text.txt", ["-o", path / "bad.txt"], 2, "must end in"),
                ("", "none.txt", [], 2, "no such file"),
                ("none", "text.txt", [], 1, "no such file"),
                ("empty", "text.txt", [], 1, "has no tokenizer"),
                ("", "text.txt", ["--pad-to", 0], 2, "positive"),
                ("", "text.txt", ["--pad-to", 4, "--bos-each-line"], 2, "not allowed"),
                ("", "bad.tsv", ["--pad-to", 4], 1, "line 2"),
                ("", "some.tsv", ["--pad-to", 4], 1, "have no label"),
                ("", "text.txt", ["--bos-each-line", "--bos-id", 70000], 1, ".u32")]:
            answer = tokenize(path / tokenizer, path / text, "-o", out, *more, code=code)
            assert says in answer, (says, answer)
            assert not out.exists()


def real_texts_give_the_tokens_that_are_known():
    """The tokens that the reference figures were measured on."""
    with folder() as path:
        sst2, stories = data("bert_tiny_sst2"), data("stories260K")
        if not sst2 or not stories:
            return "none: PARE_TEST_DATA is not set"
        tokenize(sst2, sst2.parent / "text/sst2/test.tsv", "-o", path / "s.ids.u16", "--pad-to", 64)
        for kind in "ids.u16", "labels.u8":
            assert tree(path / f"s.{kind}") == tree(sst2 / f"sst2_glue_dev_872.{kind}")
        if not importlib.util.find_spec("sentencepiece"):
            return "SST-2; sentencepiece is not installed, its tokens are not compared"
        tokenize(stories, stories / "tinystories_917.txt", "-o", path / "t.u16",
                 "--bos-each-document", "--keep-blanks")
        assert tree(path / "t.u16") == tree(stories / "tinystories_917.tok512.u16")
        return "SST-2, TinyStories"


main([streams_are_what_the_tokenizer_gives, lines_become_rows_with_their_labels,
      a_vocabulary_tells_how_it_was_split, mistakes_are_said_and_write_nothing,
      real_texts_give_the_tokens_that_are_known])
